"""Which nodes of a chain read how many layers from disk, where all memory together cannot keep the model.

Pure. A chain visits a node so often that what it reads between two visits fits its buffers (swarm.plan.costs), and windows
interleaves the visits. Then reading goes on all the time and everywhere: a token takes as long as the slowest node's pass
over what it streams, or as long as all hops together, whichever is longer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from swarm.plan.costs import NONE_STREAMED, Streamed
from swarm.plan.shares import PlannedNode, Share, seconds_of, share_kept

READ_LAYERS = 10  # so many are computed while one is read, where nobody has measured it
ABOUT = 1.02  # what takes no longer than that is as good, if less is read: reading takes a little from all else
MOST_SEARCHED = 16  # nodes among which the best chain is found exactly; of more, those that can keep most


def share_out(members: Sequence[PlannedNode], layers: int) -> list[Share]:
    """The cheapest chain's shares; an empty list if all nodes together cannot hold the model.

    Layers are streamed only where the model cannot be kept.
    """
    return share_kept(members, layers) or share_streamed(members, layers)


def share_streamed(members: Sequence[PlannedNode], layers: int) -> list[Share]:
    """The cheapest chain's shares where some layers are streamed.

    Exact to 2% for up to MOST_SEARCHED nodes: what a token takes can be no less than some node's pass, and for each such
    bound a chain of the least seconds is found by how many layers and which ends are held already.
    """
    able = sorted(members, key=lambda one: (-one.capacity(False, False), one.read_seconds, one.layer_seconds, one.key))
    tables = [_Table.of(member, layers) for member in sorted(able[:MOST_SEARCHED], key=lambda member: member.key)]
    if all(table.begin_is_free for table in tables):
        tables = [replace(table, choices=table.choices[:1] + table.choices[2:3]) for table in tables]
        return _give_begin(_find_best(tables, layers, (0, 2)))
    return _find_best(tables, layers, (0, 1, 2))


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a node may carry beside some ends, by number of layers from 0 on; passes rise with it."""

    ends: int
    streamed: Sequence[Streamed]
    visits: Sequence[int]
    seconds: Sequence[float]
    passes: Sequence[float]

    def most_within(self, bound: float) -> int:
        """How many layers' pass takes no longer; -1 if not even these ends fit."""
        low, high = -1, len(self.passes) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.passes[middle] <= bound else (low, middle - 1)
        return low


@dataclass(frozen=True, slots=True)
class _Table:
    """A node's choices: with neither end, with begin, with end."""

    member: PlannedNode
    choices: Sequence[_Choice]
    alone: _Choice  # the whole model

    @classmethod
    def of(cls, member: PlannedNode, layers: int) -> _Table:
        neither, begin, end, both = (_choose(member, layers, ends) for ends in range(4))
        return cls(member, (neither, begin, end), both)

    @property
    def begin_is_free(self) -> bool:
        return not self.member.costs.of(0)


def _choose(member: PlannedNode, layers: int, ends: int) -> _Choice:
    left = member.left(bool(ends & 1), bool(ends & 2))
    most = min(layers, member.costs.most_layers(left))
    held = [member.costs.hold(count, left) or NONE_STREAMED for count in range(most + 1)]
    visits = [1 if ends == 3 else one.visits for one in held]  # a node that is alone is not left meanwhile
    seconds = [member.seconds_of(count, bool(ends & 2), often) for count, often in enumerate(visits)]
    return _Choice(ends, held, visits, seconds, [one.layers * member.read_seconds for one in held])


def _find_best(tables: Sequence[_Table], layers: int, kinds: Sequence[int]) -> list[Share]:
    """Over every bound on a pass, the least of what chains within it take; and then the least bound for about that.

    kinds: of ends, as the tables have them.
    """
    bounds = sorted({seconds for table in tables for one in (*table.choices, table.alone) for seconds in one.passes})
    best: list[Share] = []
    least = math.inf
    low, high = 0, len(bounds) - 1
    while low <= high:
        middle = (low + high) // 2
        if bounds[middle] >= least:
            high = middle - 1
            continue
        found = _find_cheapest(tables, layers, bounds[middle], kinds, least)
        if found and seconds_of(found) < least - 1e-12:
            best, least = found, seconds_of(found)
        # A longer pass helps only while the hops together take longer than it.
        if not found or sum(share.seconds for share in found) > bounds[middle]:
            low = middle + 1
        else:
            high = middle - 1
    low, high = 0, bisect_left(bounds, max((share.pass_seconds for share in best), default=0.0))
    while low < high:
        middle = (low + high) // 2
        found = _find_cheapest(tables, layers, bounds[middle], kinds, least * ABOUT)
        if found:
            best, high = found, middle
        else:
            low = middle + 1
    return best


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A chain under construction, linked backwards."""

    member: PlannedNode
    layers: int
    choice: _Choice
    before: _Chosen | None


def _find_cheapest(
    tables: Sequence[_Table], layers: int, bound: float, kinds: Sequence[int], limit: float
) -> list[Share]:
    """The chain of the least seconds, below `limit`, of which no pass takes longer than `bound`; empty if there is none."""
    complete = kinds[-1] | kinds[1]
    caps = [[choice.most_within(bound) for choice in table.choices] for table in tables]
    if sum(max(0, *most) for most in caps) < layers:
        return []
    best: dict[int, list[tuple[float, _Chosen | None]]] = {
        ends: [(math.inf, None)] * (layers + 1) for ends in range(4) if not ends & ~complete
    }
    best[0][0] = (0.0, None)
    for table, most in zip(tables, caps, strict=True):
        if table.alone.most_within(bound) >= layers and table.alone.seconds[layers] < limit:
            chosen = _Chosen(table.member, layers, table.alone, None)
            best[complete][layers] = min(
                best[complete][layers], (table.alone.seconds[layers], chosen), key=lambda one: one[0]
            )
        for held in sorted(best, reverse=True):  # sources before they become targets: no node is taken twice
            for choice, cap in sorted(zip(table.choices, most, strict=True), key=lambda one: -one[0].ends):
                if not held & choice.ends and cap >= (not choice.ends):
                    _extend(best[held], best[held | choice.ends], table.member, choice, cap, limit)
    seconds, chosen = best[complete][layers]
    shares: list[Share] = []
    while seconds < math.inf and chosen is not None:
        choice, count = chosen.choice, chosen.layers
        begin, end = bool(choice.ends & 1), bool(choice.ends & 2)
        shares.append(Share(chosen.member, count, begin, end, choice.streamed[count], choice.visits[count]))
        chosen = chosen.before
    return shares[::-1]


def _extend(
    source: list[tuple[float, _Chosen | None]],
    target: list[tuple[float, _Chosen | None]],
    member: PlannedNode,
    choice: _Choice,
    most: int,
    limit: float,
) -> None:
    """Add one node to every chain in `source`, with every number of layers that it may carry in less than `limit`."""
    layers = len(source) - 1
    for before in range(layers, -1, -1):
        seconds, chain = source[before]
        if seconds == math.inf:
            continue
        for count in range(0 if choice.ends else 1, min(most, layers - before) + 1):
            total = seconds + choice.seconds[count]
            if total < limit and total < target[before + count][0] - 1e-12:
                target[before + count] = (total, _Chosen(member, count, choice, chain))


def _give_begin(shares: list[Share]) -> list[Share]:
    """Begin costs nothing anywhere: whoever holds it now has it, else whoever has not the end."""
    if not shares:
        return []
    first = min(shares, key=lambda share: (share.end, not share.member.part.begin, share.member.key))
    return [replace(share, begin=share is first) for share in shares]

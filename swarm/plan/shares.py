"""Which nodes a chain should run on and how many layers each should keep, for the least seconds a token.

Pure. Knows neither where on the chain a node stands nor what it holds now: layers are alike, so only their number counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.parts import NOTHING, Part
from swarm.plan.costs import NONE_STREAMED, CellCosts, Streamed
from swarm.plan.routes import HOP_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode:
    """A node as the planner sees it, for one model in one variant. Every figure is one that it published."""

    node: str
    variant: str = ""
    budget: int  # bytes for cells of this model, their KV reserve included
    most_budget: int = 0  # the same if the node's other models gave way; 0: not told
    costs: CellCosts
    layer_seconds: float = 0.0  # one token through one layer; 0: not measured
    end_seconds: float = 0.0  # one token through the final norm and head; 0: not measured
    prompt_seconds: float = 0.0  # one token of a prompt's chunk through one layer; 0: not measured
    link_seconds: float = HOP_SECONDS  # what a hop to it costs a token
    read_seconds: float = 0.0  # of one layer, from disk; 0: not measured
    part: Part = NOTHING  # what it serves or loads
    is_pressed: bool = False  # it could hold other models, of which somebody reads layers from disk for lack of memory
    stays: bool = False  # told which part to serve, leaving, or slow to act: nothing is planned for it

    @property
    def key(self) -> str:
        """What tells it from others, and from the same node with another variant of the model."""
        return f"{self.node} {self.variant}" if self.variant else self.node

    def left(self, begin: bool, end: bool) -> int:
        """Bytes for layers, beside begin and end; negative if those alone are too much."""
        return self.costs.beside_ends(self.budget, begin, end)

    def capacity(self, begin: bool, end: bool) -> int:
        """How many layers can be kept beside begin and end; negative if those alone do not fit."""
        return self.costs.most_kept(self.left(begin, end))

    def seconds_of(self, layers: int, end: bool, visits: int = 1) -> float:
        """What a token costs on hops to it that run so many layers, and the end or not."""
        return visits * self.link_seconds + layers * self.layer_seconds + end * self.end_seconds


@dataclass(frozen=True, slots=True)
class Share:
    """What one node of a chain carries: so many layers, some of them from disk, and begin or end beside them.

    visits: how often the chain has to come by.
    """

    member: PlannedNode
    layers: int
    begin: bool
    end: bool
    streamed: Streamed = NONE_STREAMED
    visits: int = 1

    @property
    def seconds(self) -> float:
        """What a token costs there, if the others' time hides what is read."""
        return self.member.seconds_of(self.layers, self.end, self.visits)

    @property
    def pass_seconds(self) -> float:
        """What reading all that is streamed takes: a token takes no less."""
        return self.streamed.layers * self.member.read_seconds


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A chain under construction, linked backwards."""

    share: Share
    before: _Chosen | None


_Row = list[tuple[float, _Chosen | None] | None]
_ENDS = ((False, False), (True, False), (False, True), (True, True))


def share_kept(members: Sequence[PlannedNode], layers: int) -> list[Share]:
    """The cheapest chain's shares, the fastest node first; an empty list if all nodes together cannot keep the model.

    Exact. In a best chain every node but its slowest is full, or layers would move from the slower to the faster; so
    going from fast to slow, what counts is only how many layers and which ends are held already.
    """
    # best[ends][count]: least seconds for `count` layers and these ends held, and the chain that does it
    best: list[_Row] = [[None] * (layers + 1) for _ in _ENDS]
    best[0][0] = (0.0, None)
    for member in sorted(members, key=lambda member: (member.layer_seconds, -member.budget, member.key)):
        complete = best[3][layers]
        bound = math.inf if complete is None else complete[0]
        if member.capacity(True, True) >= layers:  # both ends on one node only where it is the whole chain
            _extend(best[0][:1] + [None] * layers, best[3], Share(member, layers, True, True), bound)
        for held in (3, 2, 1, 0):  # sources before they become targets, so that no node is taken twice
            for taken in (2, 1, 0):
                begin, end = _ENDS[taken]
                room = member.capacity(begin, end)
                if not held & taken and room >= (not taken):
                    _extend(best[held], best[held | taken], Share(member, room, begin, end), bound)
    found = best[3][layers]
    if found is None:
        return []
    shares: list[Share] = []
    chosen = found[1]
    while chosen is not None:
        shares.append(chosen.share)
        chosen = chosen.before
    return shares[::-1]


def seconds_of(shares: Sequence[Share]) -> float:
    """What a token costs on a chain of these shares."""
    return max([sum(share.seconds for share in shares), *(share.pass_seconds for share in shares)])


def _extend(source: _Row, target: _Row, most: Share, bound: float) -> None:
    """Add one node to every chain in `source`: full, or closing the chain; not where `bound` seconds are exceeded."""
    layers = len(source) - 1
    seconds_a_layer, fixed = most.member.layer_seconds, most.member.seconds_of(0, most.end)
    for count in range(layers, -1, -1):
        before = source[count]
        # All nodes still to come are slower, so what is left takes at least this long.
        if before is None or before[0] + fixed + (layers - count) * seconds_a_layer >= bound:
            continue
        taken = min(most.layers, layers - count)
        if not (taken or most.begin or most.end):
            continue
        seconds = before[0] + fixed + taken * seconds_a_layer
        known = target[count + taken]
        if known is None or seconds < known[0] - 1e-12:
            target[count + taken] = (seconds, _Chosen(Share(most.member, taken, most.begin, most.end), before[1]))

"""Where on a chain each share goes: one stretch of cells, or several, between which others compute while it reads. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from swarm.parts import runs
from swarm.plan.shares import PlannedNode, Share

Cells = frozenset[int]
Windows = dict[str, list[tuple[int, int]]]  # cells start..stop, rising, by PlannedNode.key


def arrange(shares: Sequence[Share], held: Mapping[str, Cells]) -> dict[str, Cells]:
    """The cells of each share, so that little has to be loaded. held: what nodes hold, both by PlannedNode.key."""
    first = [share for share in shares if share.begin]
    last = [share for share in shares if share.end and not share.begin]
    middle = [share for share in shares if not share.begin and not share.end]
    anchors = {share.member.key: held[share.member.key] or _present_if_not_all(share.member) for share in middle}
    placed = [share for share in middle if anchors[share.member.key]]
    order = sorted(placed, key=lambda share: (_center(anchors[share.member.key]), share.member.key))
    ranges = {share.member.key: runs(sorted(held[share.member.key])) for share in shares}
    for share in middle:
        if not anchors[share.member.key]:
            places = range(len(order) + 1) if placed else [len(order)]
            trials = [[*order[:place], share, *order[place:]] for place in places]
            order = max(trials, key=lambda trial: _count_kept(lay_out([*first, *trial, *last]), ranges))
    windows = lay_out([*first, *order, *last])
    return {key: frozenset(cell for run in found for cell in range(*run)) for key, found in windows.items()}


def _present_if_not_all(member: PlannedNode) -> Cells:
    absent = member.costs.absent
    return frozenset(range(member.costs.layers + 2)) - absent if absent else frozenset()


def _center(held: Cells) -> float:
    return sum(held) / len(held)


def _count_kept(windows: Windows, held: Mapping[str, Sequence[tuple[int, int]]]) -> int:
    """Cells that need not be loaded."""
    return sum(
        max(0, min(stop, last) - max(start, first))
        for key, found in windows.items()
        for start, stop in found
        for first, last in held[key]
    )


def lay_out(order: Sequence[Share]) -> Windows:
    """The windows of each share if the chain runs through them in this order, again and again where some read."""
    visits = _count_visits(order)
    windows: Windows = {}
    start = 0
    for share, cells in _interleave(order, visits):
        stop = start + cells
        known = windows.setdefault(share.member.key, [])
        if known and known[-1][1] == start:
            known[-1] = (known[-1][0], stop)
        else:
            known.append((start, stop))
        start = stop
    return windows


def _count_visits(order: Sequence[Share]) -> list[int]:
    """How often the chain comes to each share: as often as its buffers want it, with somebody else between two visits.

    Where there are too few others for that, those come more often than they need.
    """
    visits = [share.visits for share in order]
    while len(order) > 1:
        most = max(range(len(order)), key=lambda index: visits[index])
        others = sum(visits) - visits[most]
        if visits[most] <= others - 1 + order[most].begin + order[most].end:
            break
        able = [index for index, share in enumerate(order) if index != most and visits[index] < share.layers]
        if not able:
            break
        visits[min(able, key=lambda index: (visits[index], order[index].member.link_seconds))] += 1
    return visits


def _interleave(order: Sequence[Share], visits: Sequence[int]) -> list[tuple[Share, int]]:
    """Each visit's share and how many cells it runs, evenly over the chain; begin comes first and end last."""
    if max(visits, default=1) == 1:
        return [(share, share.begin + share.layers + share.end) for share in order]
    queues = [_split(share, count) for share, count in zip(order, visits, strict=True)]
    found: list[tuple[Share, int]] = []
    while any(queues):
        rest = [index for index, queue in enumerate(queues) if queue]
        may = [index for index in rest if not (order[index].end and len(queues[index]) == 1)] or rest
        others = [index for index in may if not found or order[index] is not found[-1][0]] or may
        first = [index for index in may if order[index].begin] if not found else []
        # Whose next visit is due first, if the visits of each are to be as far apart as they can.
        due = min(first or others, key=lambda index: 1 - (len(queues[index]) - 0.5) / visits[index])
        found.append((order[due], queues[due].pop(0)))
    return found


def _split(share: Share, visits: int) -> list[int]:
    """How many cells each visit runs."""
    bounds = [share.layers * number // visits for number in range(visits + 1)]
    cells = [stop - start for start, stop in itertools.pairwise(bounds)]
    cells[0] += share.begin
    cells[-1] += share.end
    return cells

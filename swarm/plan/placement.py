"""The first claims of all unplaced nodes: each takes what is lacking, or all share it where together they cannot keep it.

Every node computes the rows of all unplaced nodes in id order and takes its own, so equal views give placements that
fit together without anyone coordinating them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from swarm.models import ModelKey
from swarm.parts import part_of
from swarm.plan.claims import Held, Placement, Seat, count_coverage, place_one
from swarm.plan.routes import UNMEASURED_SECONDS
from swarm.plan.shares import PlannedNode
from swarm.plan.streaming import READ_LAYERS, share_out
from swarm.plan.windows import arrange


def place_all(seats: Sequence[Seat], held: Sequence[Held], layers: Mapping[str, int]) -> dict[str, Placement]:
    """The first claims of all unplaced nodes, by node id.

    layers: model id → number of layers, for every model named anywhere.
    """
    ordered = sorted(seats, key=lambda seat: seat.node)
    held_by_others = count_coverage(held, layers)
    coverage = _copy(held_by_others)
    rows = _place_around(ordered, {}, coverage)
    if any(0 in counts for counts in coverage.values()):
        return _share_all_lacking(ordered, held_by_others, layers) or rows
    return rows


def _share_all_lacking(
    seats: Sequence[Seat], held: Mapping[str, Sequence[int]], layers: Mapping[str, int]
) -> dict[str, Placement]:
    """What each node takes of all that is lacking, some layers read from disk; none if it is too much in any case.

    Several models have the nodes' memory in proportion to what they lack; where that is too little, the first has it all.
    """
    lacking = {
        model: [cell for cell, count in enumerate(counts) if not count] for model, counts in sorted(held.items())
    }
    lacking = {model: cells for model, cells in lacking.items() if cells and any(_key(seat, model) for seat in seats)}
    for models in (list(lacking), *([model] for model in lacking)):
        wanted = {model: lacking[model] for model in models}
        shared: dict[str, Placement] = {seat.node: {} for seat in seats}
        for model in models:
            split = [replace(seat, budget=_budget_for(seat, model, wanted)) for seat in seats]
            found = _share_lacking(split, model, lacking[model], layers[model])
            if not found:
                break
            for node, placement in found.items():
                shared[node] |= placement
        else:
            return _place_around(seats, {node: one for node, one in shared.items() if one}, _copy(held))
    return {}


def _key(seat: Seat, model: str) -> ModelKey | None:
    """The variant in which a node holds a model's cells where they are shared: one that it has all of."""
    return next((key for key in sorted(seat.costs) if key.id == model and not seat.costs[key].absent), None)


def _budget_for(seat: Seat, model: str, lacking: Mapping[str, Sequence[int]]) -> int:
    """The part of a node's memory that a model has there."""
    needs = {
        one: sum(seat.costs[key].of(cell) for cell in cells)
        for one, cells in lacking.items()
        if (key := _key(seat, one)) is not None
    }
    return seat.budget * needs.get(model, 0) // max(1, sum(needs.values()))


def _copy(coverage: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    return {model: list(counts) for model, counts in coverage.items()}


def _count(placement: Placement, coverage: Mapping[str, list[int]]) -> None:
    for model, part in placement.items():
        for cell in part.cells:
            coverage[model.id][cell] += 1


def _share_lacking(seats: Sequence[Seat], model: str, lacking: Sequence[int], layers: int) -> dict[str, Placement]:
    """What each node takes of the cells that a model lacks, some of its layers read from disk; none if that is too much.

    What is lacking is planned for as if it were a model of its own. Nothing is measured yet: all are taken to be alike.
    """
    begin, end = 0 in lacking, layers + 1 in lacking
    count = len(lacking) - begin - end
    members: list[PlannedNode] = []
    keys: dict[str, ModelKey] = {}
    for seat in seats:
        key = _key(seat, model)
        if key is not None:
            keys[seat.node], costs = key, seat.costs[key]
            costs = replace(costs, layers=count, begin=costs.begin * begin, end=costs.end * end)
            members.append(
                PlannedNode(
                    node=seat.node,
                    budget=seat.budget,
                    costs=costs,
                    layer_seconds=UNMEASURED_SECONDS,
                    read_seconds=READ_LAYERS * UNMEASURED_SECONDS,
                )
            )
    shares = share_out(members, count)
    cells = arrange(shares, dict.fromkeys((member.key for member in members), frozenset[int]()))
    row = [*([] if begin else [None]), *lacking, *([] if end else [None])]  # the lacking model's cells as the model's
    placements = {
        node: {keys[node]: part_of((one for cell in found if (one := row[cell]) is not None), layers)}
        for node, found in cells.items()
    }
    return {node: placement for node, placement in placements.items() if not placement[keys[node]].is_empty()}


def _place_around(
    seats: Sequence[Seat], shared: Mapping[str, Placement], coverage: Mapping[str, list[int]]
) -> dict[str, Placement]:
    """The claims of those who share a model, and of the others one after another. coverage: is kept up to date."""
    rows = dict(shared)
    for placement in shared.values():
        _count(placement, coverage)
    for seat in seats:
        if seat.node not in shared:
            rows[seat.node] = place_one(seat, coverage)
            _count(rows[seat.node], coverage)
    return rows

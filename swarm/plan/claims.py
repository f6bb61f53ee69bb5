"""Which cells one unplaced node claims: those that the swarm lacks, as many as fit; then the thinnest. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.models import ModelKey
from swarm.parts import Part, join_parts, part_of_cells, runs, whole
from swarm.plan.costs import CellCosts


@dataclass(frozen=True, slots=True)
class Seat:
    """An unplaced node: what it can spend, and what each model that it has the weights of would cost it."""

    node: str
    budget: int
    costs: Mapping[ModelKey, CellCosts]


@dataclass(frozen=True, slots=True)
class Held:
    """A claim that stands."""

    node: str
    model: str
    part: Part


Placement = dict[ModelKey, Part]  # for one node


def count_coverage(held: Sequence[Held], layers: Mapping[str, int]) -> dict[str, list[int]]:
    """Model id → how many claims cover each cell, in whatever variant."""
    coverage = {model: [0] * (count + 2) for model, count in layers.items()}
    for claim in held:
        for cell in claim.part.cells:
            coverage[claim.model][cell] += 1
    return coverage


def take_up_again(
    seat: Seat, served_before: Mapping[ModelKey, Part], coverage: Mapping[str, Sequence[int]]
) -> Placement:
    """What a node held before, where that is still wanted: it fits, and no other cell is thinner than its thinnest."""
    placement: Placement = {}
    budget = seat.budget
    for model, part in sorted(served_before.items()):
        costs = seat.costs.get(model)
        if costs is None or part.is_empty():
            continue
        counts = coverage[model.id]
        needed = costs.least_bytes(part, budget)
        if needed <= budget and min(counts[cell] for cell in part.cells) == min(counts):
            placement[model] = part
            budget -= needed
    return placement


def place_one(seat: Seat, coverage: Mapping[str, Sequence[int]]) -> Placement:
    """What one node should claim, given how often each cell is held already; empty if nothing fits."""
    placement: Placement = {}
    budget = seat.budget
    for model in sorted(seat.costs):
        costs = seat.costs[model]
        window = None if _has_variant(placement, model) else _best_gap(costs, coverage[model.id], budget)
        if window is not None:
            placement[model] = part_of_cells(*window, costs.layers)
            budget -= sum(costs.of(cell) for cell in range(*window))
    if placement:
        return placement
    for model in sorted(seat.costs):
        window = _thinnest_window(seat.costs[model], coverage[model.id], budget)
        if window is not None:
            return {model: part_of_cells(*window, seat.costs[model].layers)}
    return {}


def _has_variant(placement: Placement, model: ModelKey) -> bool:
    """Whether the cells that the swarm lacks of a model are claimed in another variant of it."""
    return any(other.id == model.id for other in placement)


def _best_gap(costs: CellCosts, coverage: Sequence[int], budget: int) -> tuple[int, int] | None:
    """The most uncovered neighbouring cells that fit, from the start of their gap; the first of equals."""
    best: tuple[int, int] | None = None
    for start, stop in runs(cell for cell, count in enumerate(coverage) if count == 0):
        fitting = _extent(costs, start, stop, budget)
        if fitting > start and (best is None or fitting - start > best[1] - best[0]):
            best = (start, fitting)
    return best


def _extent(costs: CellCosts, start: int, stop: int, budget: int) -> int:
    """Where a window from `start` must end to fit the budget, at most `stop`."""
    cell = start
    while cell < stop and costs.of(cell) <= budget:
        budget -= costs.of(cell)
        cell += 1
    return cell


def _thinnest_window(costs: CellCosts, coverage: Sequence[int], budget: int) -> tuple[int, int] | None:
    """Of the longest windows that fit at each start, the one whose sorted coverage is lexicographically least."""
    total = costs.layers + 2
    windows = [(start, _extent(costs, start, total, budget)) for start in range(total)]
    windows = [(start, stop) for start, stop in windows if stop > start]
    if not windows:
        return None
    # A window longer by one cell would compare as larger, so each is judged by its mean first.
    return min(windows, key=lambda window: (_mean(coverage, window), window[0] - window[1], window[0]))


def _mean(coverage: Sequence[int], window: tuple[int, int]) -> float:
    return sum(coverage[window[0] : window[1]]) / (window[1] - window[0])


def must_yield(node: str, part: Part, others: Sequence[tuple[str, Part]]) -> bool:
    """Whether a node should choose again: cells are missing while some of its own are held by a lower id too."""
    if join_parts([part, *(held for _, held in others)]) == whole(part.depth):
        return False
    return any(other < node and not (part & held).is_empty() for other, held in others)

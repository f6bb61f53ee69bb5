"""Placements of unplaced nodes, as properties over random swarms."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.models import ModelKey
from swarm.parts import parse_part, whole
from swarm.plan.claims import Held, Seat, count_coverage, must_yield, take_up_again
from swarm.plan.costs import CellCosts
from swarm.plan.placement import place_all

LAYERS = 24
MODEL = ModelKey("m", "")


def seats_of(budgets: list[int], seed: int) -> list[Seat]:
    costs = {MODEL: CellCosts(LAYERS, 0, 10, 15)}
    seats = [Seat(f"{index:02}", budget, costs) for index, budget in enumerate(budgets)]
    random.Random(seed).shuffle(seats)
    return seats


@given(st.lists(st.integers(0, 300), min_size=1, max_size=9), st.integers(0, 5))
@settings(max_examples=200)
def test_no_budget_is_exceeded_and_the_order_of_arrival_does_not_matter(budgets: list[int], seed: int) -> None:
    rows = place_all(seats_of(budgets, seed), [], {MODEL.id: LAYERS})
    assert rows == place_all(seats_of(budgets, seed + 1), [], {MODEL.id: LAYERS})
    for index, budget in enumerate(budgets):
        part = rows[f"{index:02}"].get(MODEL)
        if part is not None:
            assert part.layer_count * 10 + part.end * 15 <= budget


@given(st.lists(st.integers(40, 300), min_size=1, max_size=9), st.integers(0, 5))
@settings(max_examples=200)
def test_what_fits_is_covered(budgets: list[int], seed: int) -> None:
    """A layer costs 10 and the head 15, so a node wastes at most 14 of its budget on the way."""
    rows = place_all(seats_of(budgets, seed), [], {MODEL.id: LAYERS})
    held = {cell for row in rows.values() for cell in row[MODEL].cells}
    if sum(budget - 14 for budget in budgets) >= LAYERS * 10 + 15:
        assert held == set(range(LAYERS + 2))


def test_missing_cells_come_before_thin_ones() -> None:
    held = [Held("99", MODEL.id, parse_part("b 0-10", LAYERS)), Held("98", MODEL.id, parse_part("15-24 e", LAYERS))]
    rows = place_all(seats_of([100], 0), held, {MODEL.id: LAYERS})
    assert str(rows["00"][MODEL]) == "10-15"


def test_with_nothing_missing_the_thinnest_cells_get_a_replica() -> None:
    held = [
        Held("99", MODEL.id, whole(LAYERS)),
        Held("98", MODEL.id, parse_part("b 0-12", LAYERS)),
        Held("97", MODEL.id, parse_part("18-24 e", LAYERS)),
    ]
    rows = place_all(seats_of([60], 0), held, {MODEL.id: LAYERS})
    assert str(rows["00"][MODEL]) == "12-18"


def test_a_node_too_small_for_a_layer_claims_nothing_costly() -> None:
    part = place_all(seats_of([5], 0), [], {MODEL.id: LAYERS})["00"].get(MODEL)
    assert part is None or part.layer_count == 0


def test_the_higher_id_yields_only_while_something_is_missing() -> None:
    mine = parse_part("b 0-12", LAYERS)
    assert must_yield("5", mine, [("3", mine)])
    assert not must_yield("3", mine, [("5", mine)])
    assert not must_yield("5", mine, [("3", whole(LAYERS))])
    assert not must_yield("5", mine, [("3", parse_part("12-20", LAYERS))])


def test_a_restarted_node_takes_up_what_it_held_if_that_is_still_wanted() -> None:
    seat = Seat("00", 100, {MODEL: CellCosts(LAYERS, 0, 10, 15)})
    part = parse_part("5-12", LAYERS)
    alone = [Held("99", MODEL.id, parse_part("b 0-6", LAYERS)), Held("98", MODEL.id, parse_part("12-24 e", LAYERS))]
    assert take_up_again(seat, {MODEL: part}, count_coverage(alone, {MODEL.id: LAYERS})) == {MODEL: part}
    taken_by_another = [*alone, Held("97", MODEL.id, parse_part("6-10", LAYERS))]
    assert take_up_again(seat, {MODEL: part}, count_coverage(taken_by_another, {MODEL.id: LAYERS})) == {MODEL: part}
    all_of_it = [*alone, Held("97", MODEL.id, parse_part("5-12", LAYERS))]
    assert take_up_again(seat, {MODEL: part}, count_coverage(all_of_it, {MODEL.id: LAYERS})) == {MODEL: part}
    missing_elsewhere = [Held("99", MODEL.id, parse_part("b 0-12", LAYERS))]
    assert take_up_again(seat, {MODEL: part}, count_coverage(missing_elsewhere, {MODEL.id: LAYERS})) == {}
    assert take_up_again(Seat("00", 10, seat.costs), {MODEL: part}, count_coverage(alone, {MODEL.id: LAYERS})) == {}


@given(
    st.lists(st.tuples(st.integers(0, 300), st.frozensets(st.integers(0, LAYERS + 1))), min_size=1, max_size=6),
)
@settings(max_examples=200)
def test_nobody_claims_what_lies_on_no_disk_of_its_own(nodes: list[tuple[int, frozenset[int]]]) -> None:
    seats = [
        Seat(f"{index:02}", budget, {MODEL: CellCosts(LAYERS, 0, 10, 15, absent)})
        for index, (budget, absent) in enumerate(nodes)
    ]
    rows = place_all(seats, [], {MODEL.id: LAYERS})
    for index, (budget, absent) in enumerate(nodes):
        part = rows[f"{index:02}"].get(MODEL)
        if part is not None:
            assert not absent & set(part.cells)
        else:
            affordable = [cell for cell in range(LAYERS + 2) if seats[index].costs[MODEL].of(cell) <= budget]
            assert not affordable


def test_thirds_that_lie_on_three_machines_are_claimed_there() -> None:
    """README: copy only the files of a part. Each has memory for more."""
    thirds = ["16-24 e", "b 0-8", "8-16"]
    seats = [
        Seat(f"{index:02}", 300, {MODEL: CellCosts(LAYERS, 0, 10, 15, frozenset(range(26)) - set(part.cells))})
        for index, part in enumerate(parse_part(third, LAYERS) for third in thirds)
    ]
    rows = place_all(seats, [], {MODEL.id: LAYERS})
    assert [str(rows[f"{index:02}"][MODEL]) for index in range(3)] == thirds


def test_a_node_with_two_variants_fills_a_gap_once() -> None:
    small, large = ModelKey("m", "bfloat16"), ModelKey("m", "int4")
    costs = {small: CellCosts(LAYERS, 0, 10, 15), large: CellCosts(LAYERS, 0, 5, 15)}
    held = [Held("99", "m", parse_part("b 0-10", LAYERS))]
    rows = place_all([Seat("00", 400, costs), Seat("01", 400, costs)], held, {"m": LAYERS})
    assert {key: str(part) for key, part in rows["00"].items()} == {small: "10-24 e"}
    assert list(rows["01"]) == [small], "nothing is missing any more"

"""Plans for models larger than all memory: the best shares, windows between which others compute, moves that get there."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from swarm.models import ModelKey
from swarm.parts import Part, parse_part
from swarm.plan.claims import Held, Seat
from swarm.plan.costs import NONE_STREAMED, CellCosts, Streamed, stream_away
from swarm.plan.moves import plan_moves
from swarm.plan.placement import place_all
from swarm.plan.shares import PlannedNode, seconds_of, share_kept
from swarm.plan.streaming import ABOUT, share_out, share_streamed
from swarm.plan.windows import lay_out
from tests.plan.members import MODEL, carry_out, claim_first

WEIGHT, KV = 10, 2
HIDDEN = 0.0001  # seconds that reading a layer takes, far less than computing one


def make_costs(layers: int, begin: int = 0, end: int = 0) -> CellCosts:
    return CellCosts(layers, begin, WEIGHT + KV, end, weight=WEIGHT)


def make_node(name: str, budget: int, costs: CellCosts, **figures: Any) -> PlannedNode:
    figures = {"layer_seconds": 0.005, "link_seconds": 0.002, "read_seconds": 0.08, **figures}
    return PlannedNode(node=name, budget=budget, costs=costs, **figures)


def draw_members(seed: int, layers: int) -> list[PlannedNode]:
    rng = random.Random(seed)
    costs = make_costs(layers, rng.choice([0, 0, 7]), rng.choice([0, 15]))
    return [
        make_node(
            f"{rng.getrandbits(64):016x}",
            rng.randint(0, (layers + 2) * 7),
            costs,
            layer_seconds=rng.uniform(0.002, 0.02),
            end_seconds=rng.choice([0.0, 0.01]),
            link_seconds=rng.choice([0.0005, 0.002, 0.05]),
            read_seconds=rng.choice([0.0, 0.003, 0.03, 0.3]),
        )
        for _ in range(rng.choice([1, 2, 2, 3, 4]))
    ]


# What a node holds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", range(0, 150, 3))
def test_a_node_can_hold_just_what_its_costs_say(budget: int) -> None:
    costs = make_costs(12)
    most = costs.most_layers(budget)
    for layers in range(13):
        held = costs.hold(layers, budget)
        assert (held is not None) == (layers <= most)
        if held is not None:
            assert held.layers <= max(0, layers - 1)
            assert layers * (WEIGHT + KV) - max(0, held.layers - held.buffers) * WEIGHT <= budget
            if held.layers:  # with one less it would not fit
                assert layers * (WEIGHT + KV) - (held.layers - 1 - held.buffers) * WEIGHT > budget


def test_many_streamed_layers_take_more_buffers_rather_than_more_visits_than_a_chain_should_make() -> None:
    assert stream_away(3 * WEIGHT, 40, WEIGHT) == Streamed(4, 1)
    assert stream_away(4 * WEIGHT, 40, WEIGHT) == Streamed(6, 2)
    assert stream_away(14 * WEIGHT, 40, WEIGHT) == Streamed(16, 2)
    assert stream_away(28 * WEIGHT, 40, WEIGHT) == Streamed(32, 4)
    assert Streamed(32, 4).visits == Streamed(16, 2).visits == 8
    assert stream_away(36 * WEIGHT, 40, WEIGHT) == Streamed(39, 3)  # no room for more
    assert stream_away(1, 40, 0) is None


# Shares ---------------------------------------------------------------------------------------------------------------


def search_exactly(members: Sequence[PlannedNode], layers: int) -> float:
    """Least seconds a token over every number of layers on every node and every choice of who holds begin and end."""
    best = math.inf
    for counts in itertools.product(range(-1, layers + 1), repeat=len(members)):  # -1: not in the chain
        chain = [(member, count) for member, count in zip(members, counts, strict=True) if count >= 0]
        if sum(count for _, count in chain) != layers:
            continue
        if len(chain) == 1:
            pairs = [(chain[0][0], chain[0][0])]
        else:
            pairs = list(itertools.permutations([member for member, _ in chain], 2))
            if not chain[0][0].costs.begin:  # it is free, so nobody has to be kept from having both ends
                pairs = [(None, member) for member, _ in chain]
        for first, last in pairs:
            best = min(best, time_chain(chain, first, last))
    return best


def time_chain(chain: Sequence[tuple[PlannedNode, int]], first: PlannedNode | None, last: PlannedNode) -> float:
    seconds = longest = 0.0
    for member, count in chain:
        begin, end = member is first, member is last
        if not (count or begin or end):
            return math.inf
        room = member.budget - begin * member.costs.begin - end * member.costs.end
        surplus = max(0, -(-(count * (WEIGHT + KV) - room) // WEIGHT))
        buffers = (1 if surplus <= 3 else max(2, -(-surplus // 7))) if surplus else 0
        buffers = min(buffers, count - 1 - surplus) if surplus else 0
        if room < 0 or (surplus and buffers < 1):
            return math.inf
        streamed = surplus + buffers
        visits = -(-streamed // buffers) if streamed and len(chain) > 1 else 1
        seconds += visits * member.link_seconds + count * member.layer_seconds + end * member.end_seconds
        longest = max(longest, streamed * member.read_seconds)
    return max(seconds, longest)


@pytest.mark.parametrize("block", range(10))
def test_shares_are_as_good_as_an_exact_search(block: int) -> None:
    streaming = 0
    for seed in range(block * 20, block * 20 + 20):
        layers = random.Random(seed).randint(4, 8)
        members = draw_members(seed, layers)
        shares = share_streamed(members, layers)
        found = seconds_of(shares) if shares else math.inf
        least = search_exactly(members, layers)
        assert found == least == math.inf or 1 - 1e-9 <= found / least <= ABOUT
        streaming += any(share.streamed.layers for share in shares)
        if shares:
            assert sum(share.layers for share in shares) == layers
            assert [sum(share.begin for share in shares), sum(share.end for share in shares)] == [1, 1]
    assert streaming


def test_nothing_is_streamed_where_all_nodes_together_can_keep_the_model() -> None:
    """Though a faster node would have the time."""
    costs = make_costs(8)
    fast = make_node("a" * 16, 4 * 12, costs, layer_seconds=0.001, read_seconds=0.0001)
    slow = make_node("b" * 16, 4 * 12, costs, layer_seconds=0.5)
    assert share_out([fast, slow], 8) == share_kept([fast, slow], 8)
    assert {share.streamed for share in share_out([fast, slow], 8)} == {NONE_STREAMED}
    assert share_kept([fast], 8) == []
    (alone,) = share_out([fast], 8)
    assert alone.streamed == Streamed(7, 2)


# Windows --------------------------------------------------------------------------------------------------------------


def windows_of(layers: int, members: Sequence[PlannedNode]) -> dict[str, list[tuple[int, int]]]:
    return {key[0]: found for key, found in lay_out(share_streamed(members, layers)).items()}


def test_what_is_kept_lies_in_one_piece() -> None:
    costs = make_costs(8)
    found = windows_of(8, [make_node("a" * 16, 5 * 12, costs), make_node("b" * 16, 5 * 12, costs)])
    assert sorted(len(windows) for windows in found.values()) == [1, 1]


def test_a_node_that_reads_is_visited_as_often_as_its_buffers_want_it() -> None:
    """It holds eight layers with the memory of five, so it reads four through one buffer: four visits."""
    costs = make_costs(16)
    reader = make_node("a" * 16, 5 * 12 + 3 * KV, costs)
    other = make_node("b" * 16, 8 * 12, costs, read_seconds=9.0)
    assert {share.streamed for share in share_out([reader, other], 16)} == {Streamed(4, 1), NONE_STREAMED}
    found = windows_of(16, [reader, other])
    assert len(found["a"]) == 4
    assert sum(stop - start for start, stop in found["a"]) in (8, 9)
    assert len(found["b"]) == 4  # somebody computes between two visits


@pytest.mark.parametrize("seed", range(40))
def test_windows_cover_each_cell_once(seed: int) -> None:
    layers = random.Random(seed).randint(3, 30)
    members = draw_members(seed + 1000, layers)
    shares = share_streamed(members, layers)
    windows = lay_out(shares)
    cells = sorted(cell for found in windows.values() for start, stop in found for cell in range(start, stop))
    assert cells == (list(range(layers + 2)) if shares else [])
    for share in shares:
        held = {cell for start, stop in windows[share.member.key] for cell in range(start, stop)}
        assert len(held) == share.layers + share.begin + share.end


# Claims and moves -----------------------------------------------------------------------------------------------------


def is_held(member: PlannedNode, part: Part) -> bool:
    return member.costs.least_bytes(part, member.budget) <= member.budget


def count_missing(members: Sequence[PlannedNode], layers: int) -> int:
    return layers + 2 - len({cell for member in members for cell in member.part.cells})


def test_first_claims_of_three_small_nodes_cover_a_model_that_they_cannot_keep() -> None:
    costs = make_costs(12, end=5)
    members = claim_first([make_node(name * 16, 42, costs) for name in "abc"], 12)
    assert count_missing(members, 12) == 0
    assert all(is_held(member, member.part) for member in members)
    assert sum(len(member.part.cell_ranges) > 1 for member in members) == 2
    assert not plan_moves(members, 12).moves


def test_what_is_lacking_is_shared_by_those_who_come_later() -> None:
    costs = make_costs(12, end=5)
    seats = [Seat(name * 16, 48, {MODEL: costs}) for name in "bc"]
    held = [Held("a" * 16, MODEL.id, parse_part("b 0-2 5-6", 12))]
    rows = place_all(seats, held, {MODEL.id: 12})
    cells = sorted(cell for row in rows.values() for cell in row[MODEL].cells)
    assert cells == [3, 4, 5, 7, 8, 9, 10, 11, 12, 13]


@pytest.mark.parametrize("seed", range(80))
def test_a_model_that_all_nodes_together_can_hold_is_covered_in_the_end(seed: int) -> None:
    layers = random.Random(seed).randint(4, 20)
    members = draw_members(seed, layers)
    if seed % 2:
        members = claim_first(members[:-1], layers) + members[-1:]
    plan = plan_moves(members, layers)
    after = carry_out(plan, members, may_gap=True)
    assert (count_missing(after, layers) == 0) == bool(share_out(members, layers))
    again = plan_moves(random.Random(seed).sample(after, len(after)), layers)
    assert not again.moves
    assert again.before == plan.after


def test_who_joins_with_memory_to_spare_takes_over_what_others_read() -> None:
    costs = make_costs(12)
    members = claim_first([make_node(name * 16, 4 * 12, costs) for name in "ab"], 12)
    before = plan_moves(members, 12)
    joined = [*carry_out(before, members, may_gap=True), make_node("c" * 16, 4 * 12, costs)]
    plan = plan_moves(joined, 12)
    assert plan.after.seconds_a_token < 0.5 * before.after.seconds_a_token
    after = carry_out(plan, joined, may_gap=True)
    assert sorted(member.part.layer_count for member in after) == [4, 4, 4]


@pytest.mark.parametrize("budget", [4 * 12, 3 * 12], ids=["all", "some"])
def test_who_joins_takes_over_what_is_read_even_where_nobody_waits_for_it(budget: int) -> None:
    costs = make_costs(12)
    members = claim_first([make_node(name * 16, budget, costs, read_seconds=HIDDEN) for name in "ab"], 12)
    before = plan_moves(members, 12)
    joined = [*carry_out(before, members, may_gap=True), make_node("c" * 16, budget, costs, read_seconds=HIDDEN)]
    plan = plan_moves(joined, 12)
    after = plan.after.streamed
    assert after <= 0.5 * before.after.streamed
    assert (after == 0) == (budget == 4 * 12)
    assert plan.after.seconds_a_token < 1.1 * before.after.seconds_a_token
    assert not plan_moves(carry_out(plan, joined, may_gap=True), 12).moves


def test_nobody_moves_to_spare_a_disk_where_that_makes_a_token_slower() -> None:
    costs = make_costs(12)
    alone = make_node("a" * 16, 8 * 12, costs, read_seconds=HIDDEN, part=parse_part("b 0-12 e", 12))
    slow = make_node("b" * 16, 4 * 12, costs, read_seconds=HIDDEN, layer_seconds=0.05)
    plan = plan_moves([alone, slow], 12)
    assert plan.before.streamed
    assert not plan.moves


@pytest.mark.parametrize(("seconds", "moves"), [([0.08, 0.1, 0.07], False), ([0.06, 0.2, 0.06], True)])
def test_what_a_shared_disk_gives_at_the_moment_moves_nobody(seconds: Sequence[float], moves: bool) -> None:
    costs = make_costs(60)
    members = claim_first([make_node(name * 16, 12 * 12, costs) for name in "abc"], 60)
    assert not plan_moves(members, 60).moves
    drifted = [replace(member, read_seconds=one) for member, one in zip(members, seconds, strict=True)]
    plan = plan_moves(drifted, 60)
    assert bool(plan.moves) == moves


# Several models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "streams"), [(260, False), (200, True)], ids=["kept", "read"])
def test_three_models_share_two_nodes_that_hold_no_two_of_them(budget: int, streams: bool) -> None:
    keys = [ModelKey(name, "") for name in "xyz"]
    costs = {key: make_costs(12, end=5) for key in keys}
    seats = [Seat(name * 16, budget, costs) for name in "ab"]
    rows = place_all(seats, [], {key.id: 12 for key in keys})
    for key in keys:
        assert {cell for row in rows.values() if key in row for cell in row[key].cells} == set(range(14))
    assert any(sum(costs[key].of_part(part) for key, part in row.items()) > budget for row in rows.values()) == streams
    third = budget // 3
    assert all(costs[key].least_bytes(part, third) <= third for row in rows.values() for key, part in row.items())

"""Plans of moves: as good as an exact search, possible at every step, the same for all, and over once carried out."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.parts import NOTHING, Part, parse_part, part_of_cells, whole
from swarm.plan.costs import CellCosts
from swarm.plan.figures import SAMPLES, Published
from swarm.plan.moves import plan_moves
from swarm.plan.shares import PlannedNode
from swarm.plan.streaming import share_out
from tests.plan.members import carry_out, claim_first

LAYERS = 24
SEEDS = 500


def make_members(seed: int, least: float = 0.1, most: float = 0.6) -> list[PlannedNode]:
    """6 to 9 nodes, each with memory for `least` to `most` of the model and its own speed, over a range of 16."""
    rng = random.Random(seed)
    costs = CellCosts(LAYERS, rng.choice([0, 10]), 10, rng.choice([0, 15]))
    end_layers = rng.choice([0.0, 1.4, 6.0])
    whole_bytes = LAYERS * costs.layer + costs.begin + costs.end
    return [
        PlannedNode(
            node=f"{rng.getrandbits(64):016x}",
            budget=int(whole_bytes * rng.uniform(least, most)),
            costs=costs,
            layer_seconds=(layer_seconds := 0.004 * 2 ** rng.uniform(-2, 2)),
            end_seconds=layer_seconds * end_layers * rng.uniform(0.5, 2),
            link_seconds=rng.choice([0.0005, 0.002, 0.005]),
        )
        for _ in range(rng.randint(6, 9))
    ]


def search_exactly(members: Sequence[PlannedNode]) -> float:
    """Least seconds a token over every set of nodes and every choice of who holds begin and end."""
    best = math.inf
    ordered = sorted(members, key=lambda member: member.layer_seconds)
    for size in range(1, len(ordered) + 1):
        for chosen in itertools.combinations(ordered, size):
            pairs = itertools.product(chosen, repeat=2) if size == 1 else itertools.permutations(chosen, 2)
            for first, last in pairs:
                left, seconds = LAYERS, 0.0
                for member in chosen:
                    taken = min(left, member.capacity(member is first, member is last))
                    if taken < 0:
                        break
                    left -= taken
                    seconds += member.link_seconds + taken * member.layer_seconds
                    seconds += member.end_seconds if member is last else 0.0
                else:
                    if not left:
                        best = min(best, seconds)
    return best


@pytest.mark.parametrize("start", ["unplaced", "placed"])
def test_plans_are_as_good_as_an_exact_search(start: str) -> None:
    ratios: list[float] = []
    for seed in range(SEEDS):
        members = make_members(seed)
        if start == "placed":
            members = claim_first(members, LAYERS)
        plan = plan_moves(members, LAYERS)
        carry_out(plan, members)
        ratios.append(plan.after.seconds_a_token / search_exactly(members))
    assert len(ratios) == SEEDS
    assert median(ratios) <= 1.03
    assert max(ratios) <= 1.25


@pytest.mark.parametrize("seed", range(60))
def test_a_plan_that_was_carried_out_leaves_nothing_to_plan(seed: int) -> None:
    """In tight swarms too, where nodes wait for each other's memory."""
    members = claim_first(make_members(seed, 0.1, 0.3), LAYERS)
    plan = plan_moves(members, LAYERS)
    after = carry_out(plan, members)
    random.Random(seed).shuffle(after)
    again = plan_moves(after, LAYERS)
    assert not again.moves
    assert again.before == plan.after


@given(st.integers(0, 10_000), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_same_view_gives_the_same_plan_in_whatever_order_the_peers_arrived(seed: int, order: int) -> None:
    members = claim_first(make_members(seed), LAYERS)
    shuffled = random.Random(order).sample(members, len(members))
    assert plan_moves(members, LAYERS) == plan_moves(shuffled, LAYERS)


def member(
    node: str, layer_seconds: float, budget: int, part: str = "", *, stays: bool = False, end_seconds: float = 0.0
) -> PlannedNode:
    return PlannedNode(
        node=node,
        budget=budget,
        costs=CellCosts(LAYERS, 0, 10, 0),
        layer_seconds=layer_seconds,
        end_seconds=end_seconds,
        part=parse_part(part, LAYERS) if part else NOTHING,
        stays=stays,
    )


def test_a_gain_below_the_threshold_moves_nobody() -> None:
    nodes = [member("a", 0.0042, 120, "b 0-12"), member("b", 0.004, 130, "12-24 e")]
    assert not plan_moves(nodes, LAYERS).moves


def test_layers_go_to_the_faster_node() -> None:
    nodes = [member("a", 0.004, 240, "b 0-18"), member("b", 0.001, 180, "18-24 e")]
    plan = plan_moves(nodes, LAYERS)
    assert [move.node for move in plan.moves] == ["b"]
    assert plan.moves[0].after.covers(parse_part("6-24 e", LAYERS))
    assert plan.after.seconds_a_token == pytest.approx(6 * 0.004 + 18 * 0.001 + 2 * 0.002)


def test_the_end_goes_where_it_costs_least() -> None:
    """The second node's layers are as fast, its head is not; the third is slow, and has never held the end."""
    nodes = [
        member("a", 0.002, 130, "b 0-12", end_seconds=0.004),
        member("b", 0.002, 130, "12-24 e", end_seconds=0.03),
        member("c", 0.02, 130),
    ]
    plan = plan_moves(nodes, LAYERS)
    after = {one.node: one.part for one in carry_out(plan, nodes)}
    assert plan.before.seconds_a_token == pytest.approx(24 * 0.002 + 2 * 0.002 + 0.03)
    assert plan.after.seconds_a_token == pytest.approx(24 * 0.002 + 2 * 0.002 + 0.004)
    assert after["a"].end


def test_a_node_that_has_never_held_the_end_is_taken_to_need_as_many_layers_time_for_it_as_others() -> None:
    nodes = [member("a", 0.004, 240, "f", end_seconds=0.012), member("b", 0.001, 240)]
    assert plan_moves(nodes, LAYERS).after.seconds_a_token == pytest.approx(0.002 + (24 + 3) * 0.001)


def test_a_node_that_would_slow_the_chain_stands_by_and_the_plan_says_so() -> None:
    nodes = [member("a", 0.001, 240, "f"), member("b", 0.05, 240)]
    plan = plan_moves(nodes, LAYERS)
    assert set(plan.standby) == {"b"}
    assert plan.after.seconds_a_token == plan.before.seconds_a_token


def test_what_a_dead_node_leaves_is_taken_up() -> None:
    nodes = [member("a", 0.001, 90, "b 0-6"), member("b", 0.001, 90, "6-12"), member("c", 0.001, 90, "18-24 e")]
    plan = plan_moves(nodes, LAYERS)
    assert plan.before.missing == 6
    assert plan.after.missing == 0
    carry_out(plan, nodes)


def test_two_nodes_change_places_where_no_token_comes_as_it_is() -> None:
    """Each has to drop what nobody else serves: one has room for all layers or the end, one for a few."""
    large = PlannedNode(node="a", budget=80, costs=CellCosts(8, 0, 10, 80), part=parse_part("e", 8))
    small = PlannedNode(node="b", budget=30, costs=CellCosts(8, 0, 10, 10), part=parse_part("b 0-3", 8))
    plan = plan_moves([large, small], 8)
    assert [(move.node, str(move.after)) for move in plan.moves] == [("a", "b 0-8"), ("b", "6-8 e")]
    assert (plan.before.missing, plan.after.missing) == (5, 0)


def test_whatever_is_held_a_model_that_fits_is_covered_in_the_end() -> None:
    """Nodes, costs and what is held at random; a move at a time, planned anew after each."""
    checked = 0
    for seed in range(1000):
        members, layers = hold_at_random(random.Random(seed))
        if not share_out(members, layers):
            continue
        checked += 1
        for _ in range(30):
            plan = plan_moves(members, layers)
            assert not plan.after.missing, seed
            if not plan.moves:
                break
            first = plan.moves[0]
            members = [replace(one, part=first.after) if one.node == first.node else one for one in members]
        assert not plan_moves(members, layers).before.missing, seed
    assert checked > 500


def hold_at_random(rng: random.Random) -> tuple[list[PlannedNode], int]:
    """2 to 5 nodes whose ends cost up to nine layers, each with a run of cells, or none; and how many layers there are."""
    layers = rng.choice([4, 8, 30])
    members: list[PlannedNode] = []
    for number in range(rng.randint(2, 5)):
        costs = CellCosts(layers, 0, rng.choice([10, 20]), rng.choice([0, 30, 60, 90]))
        budget = left = rng.randrange(10, 20 * layers)
        start = stop = rng.randrange(layers + 2)
        while rng.random() < 0.95 and stop < layers + 2 and costs.of(stop) <= left:
            left -= costs.of(stop)
            stop += 1
        part = part_of_cells(start, stop, layers) if stop > start else NOTHING
        speed = rng.choice([0.0005, 0.001, 0.002])
        members.append(PlannedNode(node=f"n{number}", budget=budget, costs=costs, layer_seconds=speed, part=part))
    return members, layers


def test_a_node_that_stays_is_used_and_not_moved() -> None:
    nodes = [member("a", 0.001, 240, "f", stays=True), member("b", 0.0001, 120)]
    plan = plan_moves(nodes, LAYERS)
    assert all(move.node == "b" for move in plan.moves)


def test_spare_nodes_serve_the_thinnest_layers() -> None:
    nodes = [
        member("a", 0.001, 240, "f"),
        member("b", 0.002, 120, "b 0-12"),
        member("c", 0.002, 120, "b 0-12"),
    ]
    after = {one.node: one.part for one in carry_out(plan_moves(nodes, LAYERS), nodes)}
    held = [cell for part in after.values() for cell in part.cells]
    assert min(held.count(cell) for cell in range(LAYERS + 2)) == 2
    assert after["a"] == whole(LAYERS)


def test_unmeasured_nodes_count_as_the_middle_one() -> None:
    nodes = [member("a", 0.001, 100, "b 0-10"), member("b", 0.0, 100, "10-20"), member("c", 0.003, 100, "20-24 e")]
    assert plan_moves(nodes, LAYERS).before.seconds_a_token == pytest.approx(0.010 + 10 * 0.003 + 4 * 0.003 + 0.006)
    assert Part() == NOTHING


@pytest.mark.parametrize("seed", range(10))
def test_noise_moves_nobody_in_a_thousand_rounds(seed: int) -> None:
    """A settled swarm; every round each node measures its layers again, up to a fifth off."""
    rng = random.Random(seed)
    members = make_members(seed)
    true = {one.node: one.layer_seconds for one in members}
    figures = {one.node: Published() for one in members}
    for one in members:
        for _ in range(3 * SAMPLES):
            figures[one.node].note(true[one.node] * rng.uniform(0.8, 1.2))

    def as_published(known: Sequence[PlannedNode]) -> list[PlannedNode]:
        return [replace(one, layer_seconds=figures[one.node].value) for one in known]

    members = as_published(claim_first(members, LAYERS))
    members = carry_out(plan_moves(members, LAYERS), members)
    for number in range(1000):
        for one in members:
            figures[one.node].note(true[one.node] * rng.uniform(0.8, 1.2))
        now = as_published(members)
        if now != members:
            members = now
            assert not plan_moves(members, LAYERS).moves, f"round {number}"


def test_a_prompt_is_as_fast_as_the_hop_that_takes_longest_for_its_chunks() -> None:
    costs = CellCosts(LAYERS, 0, 10, 0)
    figures = [("a", 160, 0.004, 0.002), ("b", 80, 0.001, 0.0005), ("c", 240, 0.1, 0.0)]
    members = [
        PlannedNode(node=node * 16, budget=budget, costs=costs, layer_seconds=layer, prompt_seconds=prompt)
        for node, budget, layer, prompt in figures
    ]
    plan = plan_moves(members, LAYERS)
    assert plan.before.prompt_tokens_a_second == 0
    assert plan.after.prompt_tokens_a_second == pytest.approx(1 / (16 * 0.002))
    assert set(plan.standby) == {"c" * 16}


def test_two_variants_of_a_node_are_planned_apart_and_cover_the_model_together() -> None:
    """What one of them holds the other may drop; a move says which of them it is."""
    costs = CellCosts(LAYERS, 0, 10, 15)
    half, rest = parse_part("b 0-12", LAYERS), parse_part("12-24 e", LAYERS)
    members = [
        PlannedNode(node="a", variant="bfloat16", budget=135, costs=costs, part=half, stays=True),
        PlannedNode(node="a", variant="int4", budget=135, costs=costs),
    ]
    plan = plan_moves(members, LAYERS)
    assert [(move.node, move.variant, move.after) for move in plan.moves] == [("a", "int4", rest)]
    assert (plan.before.missing, plan.after.missing) == (13, 0)
    assert plan == plan_moves(members[::-1], LAYERS)

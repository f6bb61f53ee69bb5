"""Why an answer is slow: the median token's way round the chain, who takes most of it, and what would help."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest

from swarm.client.culprit import Culprit, describe_culprit, find_culprit, find_remedy
from swarm.client.waterfall import Reading, Waterfall, find_waterfall
from swarm.messages.timings import AskTimings, StepTiming, Timings
from swarm.node.effects import Answer
from swarm.parts import parse_part
from swarm.plan.costs import CellCosts
from swarm.plan.routes import Hop
from swarm.plan.shares import PlannedNode
from swarm.testing.clients import SimulatedClient
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from swarm.wire.events import Asker

MODEL = IntegerModel(layers=12, layer_seconds=0.003)
WEATHER = Weather(least_seconds=0.0004, most_seconds=0.0006)
PARTS = ["b 0-4", "4-8", "8-12 e"]
TOKENS = 60


def answer(simulation: Simulation, count: int = 1) -> SimulatedClient:
    """The first of some answers that are asked for at once; all have their last token."""
    clients = [simulation.clients[simulation.ask([1, 2, index], TOKENS, stays=True)] for index in range(count)]
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()
    return clients[0]


def read(simulation: Simulation, client: SimulatedClient) -> Waterfall:
    """As ask_why does it, but that a message takes no time."""
    route = client.machine.route
    readings = {node: [ask(simulation, client, node)] for node in {hop.node for hop in route}}
    found = find_waterfall(route, readings)
    assert found is not None
    return found


def ask(simulation: Simulation, client: SimulatedClient, name: str) -> Reading:
    node = simulation.nodes[name]
    (owner,) = {hop.owner for hop in node.machine.sessions.hops_of(client.machine.lead.session)}
    request = AskTimings(session=client.machine.lead.session, number=1)
    told = node.machine.sessions.tell_timings(Asker(owner, "control", b""), request, node.now)
    assert isinstance(told, Answer)
    assert isinstance(told.message, Timings)
    return Reading(simulation.now, simulation.now, told.message.clock, told.message.steps)


def gap(client: SimulatedClient) -> float:
    return median(after - before for before, after in pairwise(client.times[1:]))


def explain(simulation: Simulation, client: SimulatedClient) -> tuple[Waterfall, Culprit]:
    """Where the time went; it adds up to what the client saw."""
    waterfall = read(simulation, client)
    assert waterfall.seconds == pytest.approx(gap(client), rel=0.1)
    return waterfall, find_culprit(waterfall)


@pytest.mark.parametrize("seed", range(5))
def test_the_hops_add_up_to_what_a_token_takes_whatever_the_nodes_clocks_say(seed: int) -> None:
    simulation = Simulation(seed, MODEL, WEATHER)
    for number, part in enumerate(PARTS):
        simulation.jump_clock(simulation.add_node(part), 1000.0 * number)
    simulation.run(5)
    client = answer(simulation)
    waterfall = read(simulation, client)
    assert waterfall.seconds == pytest.approx(gap(client), rel=0.05)
    for times, layers in zip(waterfall.hops, (4, 4, 4), strict=True):
        assert times.computed == pytest.approx(layers * MODEL.layer_seconds, rel=0.3)
        assert times.sent == pytest.approx(0.0005, rel=0.3)


@pytest.mark.parametrize("at", range(3))
def test_a_slowed_node_is_named(at: int) -> None:
    simulation = Simulation(1, MODEL, WEATHER)
    names = [simulation.add_node(part, speed=0.2 if index == at else 1.0) for index, part in enumerate(PARTS)]
    simulation.run(5)
    client = answer(simulation)
    waterfall, culprit = explain(simulation, client)
    assert (culprit.kind, culprit.node) == ("computing", names[at])
    assert culprit.seconds > 0.6 * waterfall.seconds


@pytest.mark.parametrize("at", range(3))
def test_a_slowed_link_is_named(at: int) -> None:
    simulation = Simulation(1, MODEL, WEATHER)
    names = [simulation.add_node(part) for part in PARTS]
    simulation.network.slow(names[at], names[(at + 1) % 3], 0.08)
    simulation.run(5)
    client = answer(simulation)
    _, culprit = explain(simulation, client)
    assert (culprit.kind, culprit.node, culprit.target) == ("link", names[at], names[(at + 1) % 3])
    assert culprit.seconds == pytest.approx(0.0805, rel=0.02)


def test_waiting_for_the_machines_cores_is_named() -> None:
    """The node beside computes long batches of another answer all the time."""
    simulation = Simulation(1, MODEL, WEATHER)
    waiting = simulation.add_node("b 0-6")
    simulation.add_node("6-12 e")
    simulation.add_node("f", beside=waiting, variant="other", speed=0.1)
    simulation.run(5)
    simulation.ask([4, 5, 6], TOKENS, variant="other")
    client = answer(simulation)
    _, culprit = explain(simulation, client)
    assert (culprit.kind, culprit.node) == ("turn", waiting)
    assert simulation.nodes[waiting].machine.make_beat().turns_waited > TOKENS // 2


def test_waiting_for_others_is_seen() -> None:
    simulation = Simulation(1, MODEL, WEATHER)
    crowded = simulation.add_node("b 0-10")
    simulation.add_node("10-12 e")
    simulation.run(5)
    waterfall, culprit = explain(simulation, answer(simulation, count=5))
    assert culprit.node == crowded
    assert sum(times.queued for times in waterfall.hops) > 0.2 * MODEL.layer_seconds


# Plain data -----------------------------------------------------------------------------------------------------------

ROUTE = [Hop("a" * 16, parse_part("b 0-4", 12)), Hop("b" * 16, parse_part("4-12 e", 12))]
NAMES = {"a" * 16: "attic", "b" * 16: "kitchen", "c" * 16: "barn"}


def step(stage: int, position: int, arrived: float, computed: float) -> StepTiming:
    return StepTiming(stage, position, arrived, 0.0, 0.0, computed)


def two_hops(kitchen_seconds: float, crossing: float = 0.001, skew: float = 50.0, tokens: int = 6) -> Waterfall:
    attic: list[StepTiming] = []
    kitchen: list[StepTiming] = []
    now = 10.0
    for position in range(tokens):
        attic.append(step(0, position, now, 0.004))
        now += 0.004 + crossing
        kitchen.append(step(1, position, now + skew, kitchen_seconds))
        now += kitchen_seconds + crossing
    readings = {"a" * 16: [Reading(now, now, now, attic)], "b" * 16: [Reading(now, now, now + skew, kitchen)]}
    found = find_waterfall(ROUTE, readings)
    assert found is not None
    return found


def test_the_quickest_exchange_says_how_clocks_stand() -> None:
    steps = [step(0, 1, 0.0, 0.01), step(0, 2, 0.02, 0.01)]
    other = [step(1, 1, 100.015, 0.004)]
    late = Reading(1.0, 2.0, 101.9, other)
    quick = Reading(3.0, 3.001, 103.0005, other)
    found = find_waterfall(ROUTE, {"a" * 16: [Reading(5.0, 5.0, 5.0, steps)], "b" * 16: [late, quick]})
    assert found is not None
    assert [round(times.sent, 6) for times in found.hops] == [0.005, 0.001]


def test_no_crossing_takes_less_than_nothing() -> None:
    found = two_hops(0.008, crossing=0.001)
    skewed = find_waterfall(
        ROUTE,
        {
            "a" * 16: [Reading(0.0, 0.0, 0.0, [step(0, 1, 0.0, 0.004), step(0, 2, 0.014, 0.004)])],
            "b" * 16: [Reading(0.0, 0.0, 0.0, [step(1, 1, 0.003, 0.008)])],  # said to come before it was sent
        },
    )
    assert skewed is not None
    assert all(times.sent >= 0 for times in skewed.hops)
    assert skewed.seconds == pytest.approx(found.seconds)


def test_nothing_is_made_up_where_no_token_is_known_to_have_gone_round() -> None:
    only = [Reading(0.0, 0.0, 0.0, [step(0, 1, 0.0, 0.004)])]
    assert find_waterfall(ROUTE, {}) is None
    assert find_waterfall(ROUTE, {"a" * 16: only}) is None
    assert find_waterfall(ROUTE, {"a" * 16: only, "b" * 16: [Reading(0.0, 0.0, 0.0, [])]}) is None


def members(**budgets: int) -> list[PlannedNode]:
    ids = {name: node for node, name in NAMES.items()}
    return [
        PlannedNode(
            node=ids[name],
            budget=budget,
            costs=CellCosts(12, 0, 10, 0),
            layer_seconds=0.001,
            link_seconds=0.001,
        )
        for name, budget in budgets.items()
    ]


def said(waterfall: Waterfall, **budgets: int) -> str:
    culprit = find_culprit(waterfall)
    return describe_culprit(waterfall, culprit, find_remedy(waterfall, culprit, members(**budgets), 12), NAMES)


def test_what_is_said_of_a_node_that_computes_too_long() -> None:
    slow = two_hops(0.054)
    assert slow.seconds == pytest.approx(0.060)
    assert said(slow, attic=120, kitchen=120) == (
        "kitchen computes 90% of a token; with its layers on attic: 4.6 times faster"
    )
    assert said(slow, attic=90, kitchen=120, barn=30) == (
        "kitchen computes 90% of a token; with its layers on attic and barn: 4.3 times faster"
    )
    assert said(slow, attic=60, kitchen=120) == (
        "kitchen computes 90% of a token; with 2 of its 8 layers on attic: 1.2 times faster"
    )
    assert said(slow, attic=40, kitchen=120) == (
        "kitchen computes 90% of a token; if there were room, with its layers on attic: 4.6 times faster"
    )
    assert said(two_hops(0.008), attic=40, kitchen=80).endswith("; no other chain would be clearly faster")


def test_what_is_said_of_a_link() -> None:
    assert said(two_hops(0.008, crossing=0.05, tokens=9), attic=120, kitchen=120) == (
        "the link from attic to kitchen takes 45% of a token; with kitchen's layers on attic: 8.6 times faster"
    )


def test_what_is_said_of_waiting() -> None:
    slow = two_hops(0.008)
    for field, words in (("queued", "for others"), ("waited", "for its turn at the machine's cores")):
        waiting = replace(slow, hops=(slow.hops[0], replace(slow.hops[1], **{field: 0.026})))
        assert said(waiting, attic=120, kitchen=120) == (
            f"on kitchen a token waits 65% of its time {words}; with its layers on attic: 3.1 times faster"
        )


def test_nodes_that_do_not_move_have_no_remedy() -> None:
    slow = two_hops(0.054)
    fixed = [replace(member, stays=True) for member in members(attic=120, kitchen=120)]
    assert find_remedy(slow, find_culprit(slow), fixed, 12) is None

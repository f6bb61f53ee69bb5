"""An answer changes chains while the old one still gives tokens: the pause is not the time that the prompt takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarm.parts import parse_part
from swarm.testing.integer_model import CACHE_BYTES, IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation

MODEL = IntegerModel(layers=8, layer_seconds=0.004, token_seconds=0.001)
FIRST, SECOND = "b 0-4", "4-8 e"
PROMPT = [number % 1000 for number in range(1500)]
POSITIONS = len(PROMPT) + 800


def start(kv_positions: int = 1 << 20) -> tuple[Simulation, str]:
    """A long prompt has been answered by a few tokens; gives the node of two that it now uses for the second half."""
    simulation = Simulation(1, MODEL, Weather(), kv_positions * CACHE_BYTES * 4)
    names = [simulation.add_node(part, budget_layers=8) for part in (FIRST, SECOND, SECOND)]
    simulation.run(6)
    simulation.ask(PROMPT, POSITIONS - len(PROMPT))
    (client,) = simulation.clients.values()
    simulation.run(30, lambda: len(client.received) >= 20)
    assert client.times[1] - client.times[0] > 5, "the prompt takes long"
    used = client.machine.route[-1].node
    assert used in names[1:]
    return simulation, used


def longest_gap(simulation: Simulation) -> float:
    (client,) = simulation.clients.values()
    return client.longest_gap


def finish(simulation: Simulation) -> None:
    """Until the answer is whole and no node holds anything of it."""
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()
    simulation.run(6)
    assert not any(node.machine.sessions.sessions for node in simulation.nodes.values() if node.is_up)


def test_the_old_chain_answers_until_the_new_one_has_caught_up() -> None:
    simulation, used = start()
    simulation.move(used, parse_part(FIRST, MODEL.layers))
    finish(simulation)
    (client,) = simulation.clients.values()
    assert client.machine.attempts > 1
    assert used not in {hop.node for hop in client.machine.route}
    assert longest_gap(simulation) < 0.6
    assert str(simulation.part_of(used)) == FIRST


def test_a_chain_that_fails_meanwhile_is_followed_by_what_the_other_has_computed_so_far() -> None:
    """The node leaves after four seconds; computing the prompt again from nothing would take longer than at first."""
    simulation, used = start()
    (client,) = simulation.clients.values()
    prompt_seconds = client.times[1] - client.times[0]
    simulation.stop(used)
    finish(simulation)
    assert 0.6 < longest_gap(simulation) < prompt_seconds


def test_without_room_for_two_the_session_itself_changes_chains() -> None:
    simulation, used = start(kv_positions=POSITIONS + 100)
    simulation.move(used, parse_part(FIRST, MODEL.layers))
    finish(simulation)
    (client,) = simulation.clients.values()
    assert client.machine.attempts > 1
    # All of the prompt is computed again, and nothing comes meanwhile; an Open may overtake the understudy's Close and
    # is sent again after a second.
    assert 4 < longest_gap(simulation) < 10


def test_a_session_that_must_leave_hears_of_it_at_once() -> None:
    simulation, used = start()
    (client,) = simulation.clients.values()
    simulation.stop(used)
    simulation.run(0.1)
    assert client.machine.understudy is not None


def test_an_understudy_that_comes_to_a_node_that_leaves_too_is_followed_by_another() -> None:
    """Two nodes leave at the same time, each with a session; each session's client would go to the other one."""
    simulation, used = start()
    third = simulation.add_node(SECOND, budget_layers=8, speed=0.5)
    simulation.run(2)
    simulation.ask([1, 2, 3], 400)
    simulation.run(1)
    first, second = (client.machine for client in simulation.clients.values())
    assert used != second.route[-1].node != third
    simulation.stop(used)
    simulation.stop(second.route[-1].node)
    simulation.run(1)
    assert [one.understudy.route[-1].node for one in (first, second) if one.understudy is not None] == [third, third]


@pytest.mark.parametrize("after", [0.2, 1.0, 4.0, 12.0, 18.0])
@pytest.mark.parametrize("end", [Simulation.kill, Simulation.stop])
def test_an_understudy_whose_chain_ends_harms_nobody(end: Callable[[Simulation, str], None], after: float) -> None:
    """The node that is to take over goes; the one that drains has to serve on, and the answer never notices."""
    simulation, used = start()
    (client,) = simulation.clients.values()
    simulation.move(used, parse_part(FIRST, MODEL.layers))
    simulation.run(10, lambda: client.machine.understudy is not None)
    assert client.machine.understudy is not None
    other = client.machine.understudy.route[-1].node
    simulation.run(after)
    end(simulation, other)
    simulation.run(5)
    assert used in {hop.node for hop in client.machine.route}
    finish(simulation)


def test_a_chain_of_slow_tokens_is_left_too() -> None:
    """A token takes longer than catching up may; it is not caught up with for ever."""
    slow = IntegerModel(layers=8, layer_seconds=0.4)
    simulation = Simulation(1, slow, Weather())
    simulation.add_node("f")
    simulation.run(6)
    simulation.ask([1, 2, 3], 40)
    (client,) = simulation.clients.values()
    simulation.run(30, lambda: len(client.received) >= 3)
    fast = simulation.add_node("f", speed=4.0)
    simulation.run(25)
    assert {hop.node for hop in client.machine.route} == {fast}
    assert client.machine.attempts == 2
    finish(simulation)


def test_an_answer_that_ends_first_leaves_nothing_behind() -> None:
    simulation, used = start()
    (client,) = simulation.clients.values()
    simulation.run(20, lambda: len(client.received) >= 770)
    simulation.move(used, parse_part(FIRST, MODEL.layers))
    simulation.run(10, lambda: client.machine.understudy is not None)
    assert client.machine.understudy is not None
    finish(simulation)


def test_one_that_is_cancelled_takes_its_understudy_along() -> None:
    simulation, used = start()
    (client,) = simulation.clients.values()
    simulation.move(used, parse_part(FIRST, MODEL.layers))
    simulation.run(10, lambda: client.machine.understudy is not None)
    client.hang_up()
    assert client.machine.understudy is None
    simulation.run(1)
    assert not any(node.machine.sessions.sessions for node in simulation.nodes.values())


# Between two turns ----------------------------------------------------------------------------------------------------

QUICK = IntegerModel(layers=8, layer_seconds=0.004, token_seconds=0.0001)


@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize(
    "fail",
    [
        Simulation.kill,
        lambda simulation, name: simulation.stall(name, 1000.0),
        lambda simulation, name: simulation.cut(next(iter(simulation.clients)), name),
    ],
    ids=["killed", "hung", "cut off"],
)
def test_a_hop_that_fails_while_nobody_asks_costs_the_next_answer_nothing(
    fail: Callable[[Simulation, str], None], hop: int
) -> None:
    """It is noticed within five seconds, and the next turn begins on another chain at once."""
    simulation = Simulation(1, QUICK, Weather())
    for part in (FIRST, SECOND, FIRST, SECOND):
        simulation.add_node(part)
    simulation.run(6)
    prompt = [3, 1, 4]
    simulation.ask(prompt, 10, stays=True)
    (client,) = simulation.clients.values()
    simulation.run(10, simulation.are_answered)
    simulation.run(30)
    assert client.machine.route, "the session is kept while nobody asks"
    fail(simulation, client.machine.route[hop].node)
    simulation.run(5)
    ids = [*prompt, *client.received, 7]
    client.ask(ids, QUICK.answer_with_scores(ids, 10))
    simulation.run(10, simulation.are_answered)
    simulation.check_answers()
    assert client.machine.attempts == 1
    assert client.times[1] - client.times[0] < 0.3


@pytest.mark.parametrize(("kind", "has_crossed"), [("amx", True), ("avx", False)])
def test_an_answer_tells_that_its_layers_went_from_one_kind_of_processor_to_another(
    kind: str, has_crossed: bool
) -> None:
    simulation = Simulation(1, MODEL, Weather())
    names = [simulation.add_node(part) for part in (FIRST, SECOND)]
    for name in names:
        simulation.nodes[name].kind = "avx"
    simulation.run(4)
    simulation.ask([1, 2, 3], 200)
    (client,) = simulation.clients.values()
    simulation.run(0.5)
    assert not client.machine.has_crossed_kinds
    spare = simulation.add_node(SECOND)
    simulation.nodes[spare].kind = kind
    simulation.run(1.5)
    simulation.kill(names[1])
    finish(simulation)
    assert client.machine.attempts == 2
    assert client.machine.has_crossed_kinds == has_crossed


@pytest.mark.parametrize("has_spare", [True, False])
def test_an_answer_changes_its_variant_only_where_nobody_else_serves_the_first_and_says_so(has_spare: bool) -> None:
    """A chain that mixes variants; what would be faster in another one is left alone."""
    simulation = Simulation(1, MODEL, Weather())
    simulation.add_node(FIRST, variant="int8")
    used = simulation.add_node(SECOND, variant="bfloat16")
    simulation.run(4)
    simulation.ask([1, 2, 3], 200)
    (client,) = simulation.clients.values()
    simulation.run(0.5)
    simulation.add_node(SECOND, variant="int4", speed=4.0)
    if has_spare:
        simulation.add_node(SECOND, variant="bfloat16")
    simulation.run(1.5)
    assert client.machine.route[1].node == used
    simulation.kill(used)
    finish(simulation)
    (_, first), (part, then) = client.variants
    assert first == ("int8",)
    assert (str(part), then) == (SECOND, ("bfloat16",) if has_spare else ("bfloat16", "int4"))


def test_only_the_variant_that_is_asked_for_is_used_and_missed() -> None:
    simulation = Simulation(1, MODEL, Weather())
    for part in (FIRST, SECOND):
        simulation.add_node(part, variant="int4", speed=4.0)
    simulation.add_node("f", variant="bfloat16")
    simulation.run(4)
    simulation.ask([1, 2, 3], 20, variant="bfloat16")
    simulation.ask([1, 2, 3], 20, variant="int8")
    pinned, missed = simulation.clients.values()
    simulation.run(60, simulation.are_answered)
    assert [hop.variant for hop in pinned.machine.route] == ["bfloat16"]
    assert pinned.received == pinned.expected
    assert 'begin, layers 0-8, end in variant "int8" (the swarm serves bfloat16, int4)' in str(missed.error)

"""What a network loses inside a chain is sent again: the answer is whole, and no other chain was needed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from swarm.messages.sessions import Renewed
from swarm.node.effects import SendClient
from swarm.node.hops.steps import StepRunner
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from swarm.wire.events import LinkDown

MODEL = IntegerModel(layers=9, layer_seconds=0.002, token_seconds=0.001)
PARTS = ["b 0-3", "3-6", "6-9 e"]
PAIRS = [(0, 1), (1, 2), (2, 0)]  # each hop and the one that it sends to; the last sends tokens to the first


def start(prompt_tokens: int) -> tuple[Simulation, list[str]]:
    """Three nodes that are all there is, and a question."""
    simulation = Simulation(1, MODEL, Weather())
    names = [simulation.add_node(part) for part in PARTS]
    simulation.run(6)
    simulation.ask(list(range(prompt_tokens)), 60)
    return simulation, names


def finish(simulation: Simulation) -> None:
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()
    (client,) = simulation.clients.values()
    assert client.machine.attempts == 1


def count_resent(simulation: Simulation) -> int:
    """As swarm-status has it: what nodes say in their beats."""
    return sum(node.machine.make_beat().resent for node in simulation.nodes.values())


@pytest.mark.parametrize("pair", PAIRS)
def test_tokens_and_hidden_states_that_were_lost_are_sent_again(pair: tuple[int, int]) -> None:
    simulation, names = start(5)
    (client,) = simulation.clients.values()
    simulation.run(10, lambda: len(client.received) >= 20)
    simulation.cut(names[pair[0]], names[pair[1]], one_way=True)
    simulation.run(0.1)
    simulation.heal()
    finish(simulation)
    assert count_resent(simulation) > 0


@pytest.mark.parametrize("pair", PAIRS[:2])
def test_chunks_of_a_prompt_that_were_lost_are_sent_again(pair: tuple[int, int]) -> None:
    simulation, names = start(400)
    simulation.run(0.3)
    simulation.cut(names[pair[0]], names[pair[1]], one_way=True)
    simulation.run(0.3)
    simulation.heal()
    finish(simulation)
    assert count_resent(simulation) > 0


def test_tokens_that_did_not_reach_the_client_are_sent_again() -> None:
    simulation, names = start(5)
    (name,) = simulation.clients
    client = simulation.clients[name]
    simulation.run(10, lambda: len(client.received) >= 20)
    simulation.cut(names[2], name, one_way=True)
    simulation.run(0.1)
    simulation.heal()
    finish(simulation)


@pytest.mark.parametrize("pair", PAIRS)
def test_connections_that_reset_are_made_again_and_what_they_lost_is_sent_again(pair: tuple[int, int]) -> None:
    simulation, names = start(5)
    (client,) = simulation.clients.values()
    for tokens in range(10, 60, 10):
        simulation.run(10, lambda tokens=tokens: len(client.received) >= tokens)
        simulation.reset(names[pair[0]], names[pair[1]])
    finish(simulation)
    assert count_resent(simulation) > 0


def test_a_hop_that_loses_the_next_one_tells_the_client_at_once() -> None:
    simulation, names = start(5)
    (client,) = simulation.clients
    simulation.run(10, lambda: len(simulation.clients[client].received) >= 20)
    told = [
        effect
        for effect in simulation.nodes[names[1]].machine.handle(LinkDown(names[2], "data", "10.0.0.3:7700"), 0.0)
        if isinstance(effect, SendClient)
    ]
    assert [(effect.node, effect.channel) for effect in told] == [(client, "control")]
    assert isinstance(told[0].message, Renewed)
    assert told[0].message.lost == [names[2]]


def test_prompts_tell_how_far_it_is_to_the_next_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chunk and its credit were on the way for, without what the next hop took for it."""
    crossings: list[float] = []
    take = StepRunner.take_crossings

    def watch(steps: StepRunner) -> Mapping[str, tuple[float, int]]:
        taken = take(steps)
        crossings.extend(seconds for seconds, _ in taken.values())
        return taken

    monkeypatch.setattr(StepRunner, "take_crossings", watch)
    simulation = Simulation(1, MODEL, Weather(least_seconds=0.004, most_seconds=0.004))
    for part in PARTS:
        simulation.add_node(part)
    simulation.run(6)
    simulation.ask(list(range(400)), 60)
    finish(simulation)
    assert crossings
    assert all(seconds == pytest.approx(0.008, abs=1e-6) for seconds in crossings)


def test_results_of_an_old_attempt_are_dropped_and_counted() -> None:
    """The first hop is cut off from the client alone, which goes on with another; what the old chain still says counts
    nowhere.
    """
    simulation = Simulation(1, MODEL, Weather())
    names = [simulation.add_node(part) for part in (*PARTS, PARTS[0])]
    simulation.run(6)
    simulation.ask([1, 2, 3], 300)
    (client,) = simulation.clients.values()
    simulation.run(10, lambda: len(client.received) >= 20)
    first = client.machine.route[0].node
    simulation.cut(next(iter(simulation.clients)), first)
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()
    assert client.machine.attempts > 1
    last = simulation.nodes[names[2]].machine
    assert last.make_beat().dropped > 0 or simulation.nodes[names[1]].machine.make_beat().dropped > 0

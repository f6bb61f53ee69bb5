"""The client's I/O thread: one caller's trouble is not another's, and it keeps little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swarm.client import route_view
from swarm.client.choice import RouteChoice
from swarm.client.effects import Effect
from swarm.client.generation import GenerationMachine
from swarm.client.loop import ClientLoop
from swarm.client.news import Failed, News
from swarm.client.route_view import RouteView
from swarm.client.transcript import Turn
from swarm.keys import new_identity
from swarm.messages.members import AskPeers, Beat
from swarm.messages.sampling import Sampling
from swarm.plan.routes import find_route
from swarm.plan.view import read_views
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from tests.client.test_choice import beat
from tests.swarms import KEYS, wait_until

MODEL = IntegerModel(layers=8, layer_seconds=0.002)


@pytest.fixture
def loop() -> Iterator[ClientLoop]:
    loop = ClientLoop(KEYS, new_identity(), [])
    loop.start()
    yield loop
    loop.stop()


def fail(now: float) -> list[Effect]:
    raise RuntimeError("no such thing")


def test_a_command_that_raises_ends_its_own_wait_and_no_other(loop: ClientLoop) -> None:
    """All are put before the thread looks, as busy callers do."""
    said: list[News] = []
    done: list[int] = []
    machines = [GenerationMachine(MODEL.card, lambda: "5" * 32, 0.5) for _ in range(3)]
    for number, machine in enumerate(machines):
        loop.order(machine, said.append, fail)
        loop.order(machine, said.append, lambda now, number=number: done.append(number) or [])
    wait_until(lambda: len(done) == 3, 5, "the rest is done")
    assert [type(effect) for effect in said] == [Failed] * 3
    assert "no such thing" in str(said[0].error)


def test_clients_ask_different_nodes_for_the_peer_table() -> None:
    asked: set[str] = set()
    for _ in range(64):
        loop = ClientLoop(KEYS, new_identity(), [])
        loop._up = {(f"{number:016x}", "control") for number in range(0, 1 << 64, 1 << 60)}

        def send(node: str, channel: str, message: object) -> bool:
            assert isinstance(message, AskPeers)
            asked.add(node)
            return True

        loop._dialer.send = send  # type: ignore[method-assign]
        loop._refresh(0.0)
        loop._dialer.close()
        loop._context.term()
        loop._polling.close()
        loop._inbox.close()
    assert len(asked) > 8


def test_the_peer_table_is_read_and_searched_once_however_often_and_whoever_looks_for_a_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[None] = []
    searches: list[None] = []
    monkeypatch.setattr(route_view, "read_views", lambda *args: reads.append(None) or read_views(*args))
    monkeypatch.setattr(route_view, "find_route", lambda *args: searches.append(None) or find_route(*args))
    choices = [RouteChoice(MODEL.card) for _ in range(3)]
    for beats in ("abcdef", "abc"):
        view = RouteView([beat(letter, "f") for letter in beats])
        for number in range(100):
            for choice in choices:
                choice.see(view)
                assert choice.is_served(choice.find(number / 10))
    assert len(reads) == len(searches) == 2
    choices[0].avoid(["a" * 16], 10.0)
    assert [choice.find(10.0)[0].node[0] for choice in choices] == ["b", "a", "a"]
    assert len(searches) == 3


def test_a_client_forgets_nodes_that_are_long_dead(loop: ClientLoop) -> None:
    old = Beat(**{name: getattr(beat("a", "f"), name) for name in beat("a", "f").__struct_fields__})
    loop._table.apply(old, -1e6)
    assert "a" * 16 in loop._table
    wait_until(lambda: "a" * 16 not in loop._table, 5, "forgotten")


def test_who_gives_up_or_loses_the_chain_gives_back_what_the_hops_hold() -> None:
    simulation = Simulation(1, MODEL, Weather())
    names = [simulation.add_node(part) for part in ("b 0-3", "3-6", "6-8 e")]
    simulation.run(5)
    simulation.ask([1, 2, 3], 400, wait_seconds=60)
    simulation.run(0.5)
    simulation.kill(names[1])
    simulation.run(1.5)
    (client,) = simulation.clients.values()
    assert client.machine.phase == "routing"
    assert not any(simulation.nodes[name].machine.sessions.sessions for name in (names[0], names[2]))


def test_a_prompt_that_is_too_long_gives_back_what_the_turn_before_left() -> None:
    simulation = Simulation(1, MODEL, Weather())
    simulation.add_node("f")
    simulation.run(5)
    simulation.ask([1, 2, 3], 20, stays=True)
    simulation.run(3)
    (client,) = simulation.clients.values()
    (node,) = simulation.nodes.values()
    assert client.finished
    assert node.machine.sessions.sessions
    turn = Turn(ids=[1] * 5000, max_tokens=1, sampling=Sampling(), stop_ids=[])
    client._perform(client.machine.begin(turn, simulation.now))
    simulation.run(0.1)
    assert not node.machine.sessions.sessions

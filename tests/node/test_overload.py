"""Ten times more clients than there is room for: some are refused and told so, the others finish, memory stays flat."""

from __future__ import annotations

import threading
from collections import Counter

import psutil
import pytest

from swarm.errors import PeerError
from swarm.messages.sessions import Refused
from swarm.messages.tensors import ids_tensor
from swarm.node.batches import MOST_SESSIONS
from swarm.node.hops import opening
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from swarm.wire.codec import encode
from tests.hostile import Raw
from tests.integer_processes import node_processes
from tests.opens import make_open
from tests.swarms import client_of, generate, integer_swarm

ROOM = 6
TOKENS = 60


def test_beyond_its_room_a_node_refuses_and_the_admitted_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOST_SESSIONS", ROOM)
    monkeypatch.setattr("swarm.client.session.REFUSED_SECONDS", 1.0)
    model = IntegerModel(layer_seconds=0.003)
    prompts = [[number, 7, number] for number in range(10 * ROOM)]
    answers: dict[int, list[int]] = {}
    refusals: list[str] = []
    most: list[int] = []
    with integer_swarm(model, ["b 0-6", "6-12 e"]) as nodes, client_of(nodes) as swarm:

        def ask(number: int) -> None:
            try:
                answers[number] = generate(swarm, prompts[number], TOKENS)
            except PeerError as error:
                refusals.append(error.code)
            most.append(max(len(node.process.machine.sessions.sessions) for node in nodes))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(10 * ROOM)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answers == {number: model.answer(prompts[number], TOKENS) for number in answers}
    assert len(answers) >= ROOM
    assert set(refusals) == {"OVERLOADED"}
    assert len(answers) + len(refusals) == 10 * ROOM
    assert max(most) <= ROOM


def test_one_of_many_waits_for_its_turn_without_giving_its_chain_up() -> None:
    """The last of these prompts has no token for more than half a minute."""
    model = IntegerModel(layers=30, layer_seconds=0.0008, token_seconds=0.00012)
    simulation = Simulation(1, model, Weather())
    first = simulation.add_node("b 0-15")
    simulation.add_node("15-30 e", beside=first)
    simulation.run(5)
    clients = [simulation.clients[simulation.ask(range(index, index + 200), 24)] for index in range(64)]
    simulation.run(120, simulation.are_answered)
    simulation.check_answers()
    assert max(client.times[1] - client.times[0] for client in clients) > 35
    assert {client.machine.attempts for client in clients} == {1}


def test_ten_times_the_sessions_take_no_more_memory_than_those_that_are_admitted() -> None:
    """Measured from outside, on a process of its own; each session brings 2,000 token ids."""
    ids = ids_tensor(range(1000, 3000))
    answers: Counter[str] = Counter()
    with node_processes(["f"], IntegerModel(vocabulary=5000)) as nodes:
        node = nodes[0]
        raw = Raw(node.address)
        sizes = [psutil.Process(node.popen.pid).memory_info().rss]
        for number in range(10 * MOST_SESSIONS):
            order = make_open("f", session=f"{number:032x}", previous=node.node, next=node.node, positions=2100)
            raw.send([bytes(frame) for frame in encode(order, ids)])
            reply = raw.receive()
            answers[reply.code if isinstance(reply, Refused) else type(reply).__name__] += 1
            if (number + 1) % MOST_SESSIONS == 0:
                sizes.append(psutil.Process(node.popen.pid).memory_info().rss)
        raw.close()
    print(f"MiB at rest, then after each {MOST_SESSIONS} sessions: {[size >> 20 for size in sizes]}; {answers}")
    assert answers["Opened"] >= MOST_SESSIONS
    assert answers["OVERLOADED"] > 5 * MOST_SESSIONS
    assert sizes[-1] - sizes[1] < sizes[1] - sizes[0], "ten times as many took more than as much again"

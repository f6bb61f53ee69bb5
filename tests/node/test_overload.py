"""Ten times more clients than there is room for: some are refused and told so, the others finish."""

from __future__ import annotations

import threading

import pytest

from swarm.errors import PeerError
from swarm.node import sessions
from swarm.testing.integer_model import IntegerModel
from tests.swarms import client_of, generate, integer_swarm

ROOM = 6
TOKENS = 60


def test_beyond_its_room_a_node_refuses_and_the_admitted_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_SESSIONS", ROOM)
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

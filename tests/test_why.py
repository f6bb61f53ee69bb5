"""Why an answer is slow, asked of real nodes: a slowed node, a slowed link and a waiting turn are each named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm.client.news import Delivered, RouteTaken
from swarm.client.swarm import SwarmClient
from swarm.client.transcript import Turn
from swarm.client.why import Why, ask_why
from swarm.keys import make_secret
from swarm.messages.sampling import Sampling
from swarm.testing.integer_model import IntegerModel
from tests import lan
from tests.demo_model import ANSWER, QUESTION
from tests.processes import DEMO, Node, chat_json, stop_all
from tests.swarms import IntegerNode, client_of, make_node, wait_until
from tests.test_lan import make_home

MODEL = IntegerModel(layer_seconds=0.002)
TOKENS = 50


def ask(swarm: SwarmClient, prompt: list[int], tokens: int = TOKENS) -> Why:
    """One answer's."""
    card = swarm.card(swarm.find_model(None, 10))
    taken: RouteTaken | None = None
    arrivals: list[float] = []
    with swarm.open_generation(card) as generation:
        turn = Turn(ids=prompt, max_tokens=tokens, sampling=Sampling(), stop_ids=[])
        for event in generation.generate(turn):
            if isinstance(event, RouteTaken):
                taken = event
            elif isinstance(event, Delivered):
                arrivals += [time.monotonic()] * len(event.ids)
        assert taken is not None
        why = ask_why(swarm, card, taken, arrivals)
    assert why is not None
    assert why.waterfall.seconds == pytest.approx(why.measured, rel=0.1)
    return why


def start(
    part: str, nodes: list[IntegerNode], cores: str | None = None, pause: Callable[[float], None] = time.sleep
) -> IntegerNode:
    node = make_node(MODEL, part, [one.address for one in nodes], cores=cores, pause=pause)
    node.start()
    nodes.append(node)
    wait_until(lambda: bool(node.parts), 10, "a node is ready")
    return node


@pytest.mark.parametrize("at", [0, 1])
def test_a_slowed_node_is_named(at: int) -> None:
    nodes: list[IntegerNode] = []
    try:
        for index, part in enumerate(("b 0-6", "6-12 e")):
            slowness = 4 if index == at else 1
            start(part, nodes, pause=lambda seconds, slowness=slowness: time.sleep(slowness * seconds))
        with client_of(nodes) as swarm:
            why = ask(swarm, [1, 2, 3])
        assert (why.culprit.kind, why.culprit.node) == ("computing", nodes[at].node)
        assert why.said.startswith(f"node-{nodes[at].node[:4]} computes ")
    finally:
        for node in nodes:
            node.stop()


def test_a_waiting_turn_is_named(tmp_path: Path) -> None:
    """The first node shares its machine's cores with one whose batches, of other answers, take long."""
    nodes: list[IntegerNode] = []
    busy: list[IntegerNode] = []
    cores = str(tmp_path / "cores")
    try:
        waiting = start("b 0-6", nodes, cores)
        start("6-12 e", nodes)
        start("f", busy, cores, pause=lambda seconds: time.sleep(3 * seconds))
        with client_of(busy) as other, client_of(nodes) as swarm:
            other_answer = threading.Thread(target=lambda: ask_patiently(other))
            other_answer.start()
            why = ask(swarm, [4, 5, 6], TOKENS // 2)
            other_answer.join()
        assert (why.culprit.kind, why.culprit.node) == ("turn", waiting.node)
    finally:
        for node in (*nodes, *busy):
            node.stop()


def ask_patiently(swarm: SwarmClient) -> None:
    card = swarm.card(swarm.find_model(None, 10))
    with swarm.open_generation(card) as generation:
        turn = Turn(ids=[1, 2, 3], max_tokens=TOKENS, sampling=Sampling(), stop_ids=[])
        assert sum(isinstance(event, Delivered) for event in generation.generate(turn)) > 0


@pytest.mark.lan
@pytest.mark.long
@pytest.mark.skipif(not lan.is_possible(), reason=lan.REASON)
def test_a_slowed_link_is_named(tmp_path: Path) -> None:
    make_secret(tmp_path / "secret")
    nodes: list[Node] = []
    with lan.lan(3) as hosts:
        try:
            for host, part in zip(hosts[:2], ("b 0-3", "3-6 e"), strict=True):
                options = ["--weights", str(DEMO), "--part", part, "--name", f"at{host.address[-1]}"]
                nodes.append(Node(make_home(tmp_path, host.name), options, host.prefix))
            ids = [node.wait_ready()[1] for node in nodes]
            hosts[0].limit("256kbit")
            # Long enough that most of its tokens come when what the link lets pass at once has been used up.
            asked = ["--why", "--temperature", "0", "--ignore-eos", "--max-tokens", "150", QUESTION]
            answer = chat_json(make_home(tmp_path, "laptop"), asked, hosts[2].prefix)
        finally:
            stop_all(nodes)
    assert answer["text"].startswith(ANSWER)
    why = answer["why"]
    assert why["culprit"] == {"kind": "link", "node": ids[0], "target": ids[1]}
    assert why["said"].startswith("the link from at1 to at2 takes ")
    assert why["seconds_a_token"] == pytest.approx(why["measured_seconds_a_token"], rel=0.1)

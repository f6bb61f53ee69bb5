"""What a node says of a session, however much there is of it."""

from __future__ import annotations

import pytest
from msgspec import structs

from swarm.messages.members import AskPeers, HoldAnswer
from swarm.messages.steps import Score
from swarm.node.hops.hop import MOST_IDS, MOST_SCORED_IDS, HopSession, pages_of, tokens_of
from swarm.node.peers import membership
from swarm.parts import parse_part
from swarm.testing.integer_model import MODEL_KEY, IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from swarm.wire.events import Arrived, Asker, LinkMessage
from tests.opens import make_open


def finished_hop(tokens: int) -> HopSession:
    order = make_open("f", positions=tokens)
    hop = HopSession(order=order, owner="c" * 16, model=MODEL_KEY, part=parse_part("f", 8), lease=1.0, used=0.0)
    hop.ids = list(range(tokens))
    hop.is_finished = True
    return hop


def test_only_the_last_page_of_an_answer_says_that_it_is_over() -> None:
    hop = finished_hop(MOST_IDS + 10)
    first, second = tokens_of(hop, 0), tokens_of(hop, MOST_IDS)
    assert (len(first.ids), first.finish) == (MOST_IDS, "")
    assert (len(second.ids), second.finish) == (10, "length")
    assert tokens_of(finished_hop(MOST_IDS), 0).finish == "length"


def test_scored_tokens_that_are_lacking_come_in_as_many_messages_as_they_take() -> None:
    hop = finished_hop(1000)
    hop.order = structs.replace(hop.order, tail=structs.replace(hop.order.tail, scores=20))
    hop.scores = [Score(-float(token)) for token in range(100, 1000)]  # those before are of an attempt before
    pages = pages_of(hop, 300)
    assert [token for page in pages for token in page.ids] == list(range(300, 1000))
    assert [score.log_probability for page in pages for score in page.scores] == [
        -float(token) for token in range(300, 1000)
    ]
    assert [page.finish for page in pages] == [""] * (len(pages) - 1) + ["length"]
    assert all(len(page.ids) <= MOST_SCORED_IDS for page in pages)
    assert len(pages_of(finished_hop(MOST_IDS + 10), 0)) == 1


def test_a_page_of_the_peer_table_costs_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(1, IntegerModel(layers=60), Weather())
    for _ in range(60):
        simulation.add_node(budget_layers=1)
    simulation.run(4)
    node = next(iter(simulation.nodes.values())).machine
    trimmed: list[None] = []
    trim = membership._trim
    monkeypatch.setattr(membership, "_trim", lambda beat: trimmed.append(None) or trim(beat))
    list(node.handle(Arrived(Asker("c" * 16, "control", b"c"), AskPeers()), simulation.now))
    assert 0 < len(trimmed) <= membership.PAGE_NODES


def test_a_promise_of_what_the_model_has_not_got_is_none() -> None:
    simulation = Simulation(1, IntegerModel(layers=8, layer_seconds=0.001), Weather())
    names = [simulation.add_node(part, budget_layers=8) for part in ("b 0-4", "b 0-4", "4-8 e")]
    simulation.run(3)
    simulation.stall(names[1], 3.0)
    simulation.move(names[0], parse_part("4-8 e", 8))
    simulation.run(1)
    machine = simulation.nodes[names[0]].machine
    number = max(machine.moves._obtained._asked)
    answer = HoldAnswer(number=number, part="40-50")
    assert list(machine.handle(LinkMessage(names[1], "control", answer), simulation.now)) == []
    assert simulation.part_of(names[0]).covers(parse_part("b 0-4", 8))

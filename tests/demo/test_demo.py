"""The shipped model answers what it was made for, over a real chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.client.conversation import Conversation, Report, Settings
from swarm.client.documents import Documents
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.demo.corpus import read_corpus
from swarm.keys import derive_keys, new_identity, read_secret
from tests.processes import DEMO, Node, stop_all

ENTRIES = read_corpus()
PARTS = ["b 0-2", "2-4", "4-6 e"]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SwarmClient, Path]]:
    home = tmp_path_factory.mktemp("home")
    nodes: list[Node] = []
    try:
        for part in PARTS:
            peers = [word for node in nodes for word in ("--peer", node.wait_ready()[4])]
            options = ["--weights", str(DEMO), "--host", "127.0.0.1", "--port", "18900", "--no-mdns"]
            nodes.append(Node(home, [*options, "--part", part, *peers]))
        address = nodes[-1].wait_ready()[4]
        secret = read_secret(home / "config" / "swarm" / "secret")
        assert secret is not None
        settings = ClientSettings(hosts=["127.0.0.1"], peers=[address], use_mdns=False)
        with SwarmClient(settings, derive_keys(secret), new_identity()) as client:
            yield client, home
    finally:
        stop_all(nodes)


def start(swarm: tuple[SwarmClient, Path]) -> Conversation:
    client, home = swarm
    card = client.card(client.find_model(None, 10))
    documents = Documents(client, card, home / "documents")
    tokenizer = documents.tokenizer()
    return Conversation(client, card, tokenizer, documents.prompt_form(tokenizer))


def answer(conversation: Conversation, question: str) -> str:
    *_, report = conversation.ask(question, Settings(max_tokens=80))
    assert isinstance(report, Report)
    return report.text


@pytest.mark.slow
def test_every_question_is_answered_exactly_also_as_a_second_turn(swarm: tuple[SwarmClient, Path]) -> None:
    assert len(ENTRIES) >= 60
    conversation = start(swarm)
    wrong: list[str] = []
    second: list[str] = []
    for entry, following in zip(ENTRIES, [*ENTRIES[1:], ENTRIES[0]], strict=True):
        conversation.forget()
        if answer(conversation, entry.question) != entry.answer:
            wrong.append(entry.question)
        if answer(conversation, following.question) != following.answer:
            second.append(following.question)
    assert wrong == []
    assert len(second) <= len(ENTRIES) // 10, second


@pytest.mark.slow
def test_nine_in_ten_unseen_wordings_are_answered(swarm: tuple[SwarmClient, Path]) -> None:
    conversation = start(swarm)
    wrong: list[str] = []
    for entry in ENTRIES:
        assert entry.unseen not in entry.trained_questions
        conversation.forget()
        if answer(conversation, entry.unseen) != entry.answer:
            wrong.append(entry.unseen)
    assert len(wrong) <= len(ENTRIES) // 10, wrong


def test_the_model_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 6_000_000

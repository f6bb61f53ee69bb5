"""What a conversation sends: with the token that begins a text where nobody has written it, the system's word first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from swarm.client.conversation import Conversation, Settings
from swarm.client.news import Delivered, Finished
from swarm.client.prompts import INSTRUCT, PromptForm
from swarm.client.swarm import SwarmClient
from swarm.client.transcript import Turn
from swarm.messages.files import ModelCard

BEGIN = 0
TEMPLATE = "<s>{% for m in messages %}[{{ m.role[0] }}:{{ m.content }}]{% endfor %}"


def make_tokenizer() -> Tokenizer:
    """A token a byte, and one that begins a text."""
    letters = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", BEGIN)])
    return tokenizer


class FakeSwarm:
    """Answers every turn with the same ids, and keeps what it was asked."""

    def __init__(self, answer: list[int]) -> None:
        self.turns: list[Turn] = []
        self._answer = answer

    def open_generation(self, card: ModelCard) -> FakeSwarm:
        del card
        return self

    def generate(self, turn: Turn) -> Iterator[Any]:
        self.turns.append(turn)
        yield Delivered(self._answer)
        yield Finished("end")


def talk(form: PromptForm | None) -> tuple[Conversation, FakeSwarm, Tokenizer]:
    tokenizer = make_tokenizer()
    swarm = FakeSwarm(tokenizer.encode("ok", add_special_tokens=False).ids)
    card = ModelCard(model="0" * 32, name="m", layers=1, context=1000, vocabulary=300, end_ids=[], documents={})
    return Conversation(cast(SwarmClient, swarm), card, tokenizer, form), swarm, tokenizer


@pytest.mark.parametrize("form", [INSTRUCT, None])
def test_raw_text_begins_with_the_token_that_begins_texts(form: PromptForm | None) -> None:
    conversation, swarm, tokenizer = talk(form)
    list(conversation.complete("abc", Settings()))
    assert swarm.turns[0].ids == [BEGIN, *tokenizer.encode("abc", add_special_tokens=False).ids]


def test_a_template_writes_that_token_itself() -> None:
    conversation, swarm, _ = talk(PromptForm(TEMPLATE, (), {}))
    list(conversation.ask("abc", Settings()))
    assert list(swarm.turns[0].ids).count(BEGIN) == 1


def test_the_systems_word_comes_first_in_every_turn() -> None:
    conversation, swarm, tokenizer = talk(PromptForm(TEMPLATE, (), {}))
    list(conversation.ask("abc", Settings(system="be brief")))
    list(conversation.ask("def", Settings(system="be brief")))
    list(conversation.ask("ghi", Settings()))
    texts = [tokenizer.decode(list(turn.ids), skip_special_tokens=True) for turn in swarm.turns]
    assert texts == ["[s:be brief][u:abc]", "[s:be brief][u:abc][a:ok][u:def]", "[u:abc][a:ok][u:def][a:ok][u:ghi]"]


def test_a_model_without_a_template_goes_on_from_what_was_said() -> None:
    conversation, swarm, tokenizer = talk(None)
    list(conversation.ask("abc", Settings()))
    list(conversation.ask("def", Settings()))
    assert tokenizer.decode(list(swarm.turns[1].ids), skip_special_tokens=True) == "abcokdef"
    assert list(swarm.turns[1].ids)[: len(swarm.turns[0].ids)] == list(swarm.turns[0].ids)

"""Text to token ids and back."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from swarm.gateway.tokens import bytes_of
from tests.demo_model import QUESTION
from tests.gateway.serving import Gateway
from tests.processes import DEMO

TEXT = "A route: ünïcødé, 漢字 🙂.\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def test_a_text_becomes_ids_and_a_text_again(gateway: Gateway, tokenizer: Tokenizer) -> None:
    status, _, told = gateway.ask("/tokenize", {"prompt": TEXT, "add_special_tokens": False})
    assert status == 200
    assert told["tokens"] == tokenizer.encode(TEXT).ids
    assert told["count"] == len(told["tokens"])
    assert gateway.ask("/detokenize", {"tokens": told["tokens"]})[2] == {"prompt": TEXT}


def test_a_conversation_becomes_its_prompt(gateway: Gateway) -> None:
    told = gateway.ask("/tokenize", {"messages": [{"role": "user", "content": QUESTION}]})[2]
    assert told["count"] == 10


def test_the_token_that_ends_a_text_is_told(gateway: Gateway, tokenizer: Tokenizer) -> None:
    told = gateway.ask("/tokenizer_info")[2]
    assert tokenizer.token_to_id(told["eos_token"]) is not None


@pytest.mark.parametrize("body", [{}, {"prompt": "x", "messages": []}, {"prompt": 5}])
def test_what_is_wrong_is_refused(gateway: Gateway, body: dict[str, object]) -> None:
    assert gateway.ask("/tokenize", body)[0] == 400


@pytest.mark.parametrize("tokens", [[-1], [1 << 40], "x"])
def test_ids_that_there_are_not_are_refused(gateway: Gateway, tokens: object) -> None:
    assert gateway.ask("/detokenize", {"tokens": tokens})[0] == 400


def test_the_bytes_of_tokens_are_those_of_their_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT).ids
    assert b"".join(bytes_of(tokenizer, one) for one in ids) == TEXT.encode()
    assert any(len(bytes_of(tokenizer, one)) == 1 and bytes_of(tokenizer, one)[0] > 127 for one in ids)

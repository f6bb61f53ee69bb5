"""What users may set, checked once, in plain words."""

from __future__ import annotations

import math

import msgspec
import pytest

from swarm.client.prompts import read_defaults
from swarm.client.settings import parse_setting
from swarm.errors import RequestError
from swarm.messages.sampling import Sampling


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("temperature", "banana", "temperature: 0 to 100, got banana"),
        ("temperature", "nan", "temperature: 0 to 100, got nan"),
        ("temperature", "inf", "temperature: 0 to 100, got inf"),
        ("temperature", "-1", "temperature: 0 to 100, got -1"),
        ("top_p", "0", "top_p: above 0 to 1, got 0"),
        ("top_k", "1.5", "top_k: 0 or more, a whole number, got 1.5"),
        ("max_tokens", "0", "max_tokens: 1 or more, a whole number, got 0"),
        ("seed", "", "got nothing"),
        ("colour", "red", "colour cannot be set; what can: temperature, "),
    ],
)
def test_what_cannot_be_is_said_in_words(name: str, text: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_setting(name, text)
    assert words in str(caught.value)


def test_what_can_be_is_taken() -> None:
    assert parse_setting("temperature", "0.5") == 0.5
    assert parse_setting("max_tokens", "1") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 101.0])
def test_a_node_is_sent_no_such_thing_and_takes_none(value: float) -> None:
    with pytest.raises(ValueError, match="temperature: 0 to 100"):
        Sampling(temperature=value)
    raw = msgspec.msgpack.encode({"temperature": value})
    with pytest.raises(msgspec.ValidationError, match="temperature: 0 to 100"):
        msgspec.msgpack.decode(raw, type=Sampling)


def test_a_models_own_defaults_count_where_they_can_be() -> None:
    config = b'{"do_sample": true, "temperature": 1e999, "top_k": 10, "top_p": 2, "repetition_penalty": "much"}'
    assert read_defaults(config) == {"top_k": 10}

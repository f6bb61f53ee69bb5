"""OpenAI's responses, through its own library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from swarm.client.prompts import Message
from swarm.gateway.failures import Failure
from swarm.gateway.openai.stored import KEPT_SECONDS, MOST_CHARACTERS, StoredAnswers
from tests.demo_model import ANSWER, QUESTION
from tests.gateway.serving import MODEL, Gateway

PATH = "/v1/responses"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Any]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as found:
        yield found


def test_an_input_is_answered(client: Any) -> None:
    answer = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert answer.output_text == ANSWER
    assert (answer.status, answer.usage.input_tokens, answer.usage.output_tokens) == ("completed", 10, 18)


def test_a_stream_says_the_same_piece_by_piece(client: Any) -> None:
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        events = list(stream)
        last = stream.get_final_response()
    assert last.output_text == ANSWER
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    assert [event.sequence_number for event in events] == sorted(event.sequence_number for event in events)
    named = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert named == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_one_goes_on_from_another(client: Any, stream: bool) -> None:
    def ask(**asked: Any) -> Any:
        if not stream:
            return client.responses.create(model=MODEL, temperature=0, **asked)
        return list(client.responses.create(model=MODEL, temperature=0, stream=True, **asked))[-1].response

    first = ask(input=QUESTION, instructions="Be short.")
    second = ask(input="What is a hop?", previous_response_id=first.id)
    said = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": [{"type": "input_text", "text": "What is a hop?"}]},
    ]
    if first.output_text == ANSWER:
        assert second.output_text == ask(input=said).output_text
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


def test_what_is_not_to_be_stored_is_not(client: Any) -> None:
    answer = client.responses.create(model=MODEL, input=QUESTION, store=False, max_output_tokens=2)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_tokens_come_with_how_likely_they_were(client: Any) -> None:
    asked = {
        "model": MODEL,
        "input": QUESTION,
        "temperature": 0,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    answer = client.responses.create(**asked)
    rows = answer.output[0].content[0].logprobs
    assert "".join(row.token for row in rows).startswith(f" {ANSWER}")
    assert all(len(row.top_logprobs) == 2 for row in rows)
    events = list(client.responses.create(**asked, stream=True))
    told = [row.token for event in events if event.type == "response.output_text.delta" for row in event.logprobs]
    assert told == [row.token for row in rows][: len(told)]
    assert len(told) >= len(rows) - 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"background": True}, "background"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_what_is_wrong_is_named(gateway: Gateway, change: dict[str, Any], field: str) -> None:
    status, _, told = gateway.ask(PATH, {"model": MODEL, "input": "x", **change})
    assert status == 400, told
    assert told["error"]["param"] == field


def test_what_is_kept_is_forgotten_in_an_hour_or_for_others() -> None:
    stored = StoredAnswers()
    stored.keep("a", [Message("user", "x")], {}, 0.0)
    assert stored.require("a", KEPT_SECONDS).told == {}
    with pytest.raises(Failure):
        stored.require("a", KEPT_SECONDS + 1)
    stored.keep("b", [Message("user", "x" * (MOST_CHARACTERS - 1))], {}, KEPT_SECONDS + 1)
    assert stored.find("b", KEPT_SECONDS + 1) is not None
    stored.keep("c", [Message("user", "xx")], {}, KEPT_SECONDS + 2)
    assert stored.find("b", KEPT_SECONDS + 2) is None
    assert stored.find("c", KEPT_SECONDS + 2) is not None
    assert stored.forget("c")
    assert not stored.forget("c")

"""Anthropic's own library, and requests that it would not send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from tests.demo_model import ANSWER, QUESTION
from tests.gateway.serving import MODEL, Gateway
from tests.swarms import wait_until

ASKED = [{"role": "user", "content": QUESTION}]
GREEDY = {"temperature": 0}  # the library has no name for it any more
PATH = "/v1/messages"
FINE = {"model": MODEL, "max_tokens": 3, "messages": ASKED}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Any]:
    with Anthropic(base_url=gateway.url, api_key="any", max_retries=0) as found:
        yield found


def test_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).display_name == MODEL


def test_a_stream_that_is_closed_ends_the_answer(client: Any, gateway: Gateway) -> None:
    with client.messages.stream(model=MODEL, max_tokens=400, messages=ASKED, extra_body={"temperature": 2}) as stream:
        next(iter(stream.text_stream))
    wait_until(lambda: gateway.ask("/swarm")[2]["answers"] == [], 2, "nobody is answered any more")


def test_a_conversation_is_answered(client: Any) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=40, messages=ASKED, extra_body=GREEDY)
    assert [block.text for block in answer.content] == [ANSWER]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == 10
    assert answer.usage.output_tokens == 18


def test_a_stream_says_the_same_piece_by_piece(client: Any) -> None:
    with client.messages.stream(model=MODEL, max_tokens=40, messages=ASKED, extra_body=GREEDY) as stream:
        pieces = list(stream.text_stream)
        last = stream.get_final_message()
    assert "".join(pieces) == ANSWER == last.content[0].text
    assert len(pieces) > 10
    assert (last.stop_reason, last.usage.output_tokens) == ("end_turn", 18)


def test_events_come_in_their_order(gateway: Gateway) -> None:
    connection = gateway.connect()
    connection.request("POST", PATH, json.dumps({**FINE, "stream": True, "temperature": 0}))
    answer = connection.getresponse()
    assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
    names = [line[7:].decode().strip() for line in answer if line.startswith(b"event: ")]
    begin, *deltas, stop, changed, end = [name for name in names if name != "ping"]
    assert (begin, deltas[0], stop, changed, end) == (
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    )
    assert set(deltas[1:]) == {"content_block_delta"}


@pytest.mark.parametrize("stream", [False, True])
def test_why_it_ended_is_told(client: Any, stream: bool) -> None:
    def ask(**settings: Any) -> Any:
        asked = {"model": MODEL, "max_tokens": 40, "messages": ASKED, "extra_body": GREEDY, **settings}
        if not stream:
            return client.messages.create(**asked)
        with client.messages.stream(**asked) as streaming:
            return streaming.get_final_message()

    stopped = ask(stop_sequences=["never", " nodes"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " nodes")
    assert stopped.content[0].text == ANSWER[: ANSWER.index(" nodes")]
    assert ask(max_tokens=2).stop_reason == "max_tokens"


def test_an_answer_that_has_begun_is_gone_on_with(client: Any) -> None:
    begun = ANSWER[: ANSWER.index(" of")]
    said = [*ASKED, {"role": "assistant", "content": f" {begun}"}]
    answer = client.messages.create(model=MODEL, max_tokens=40, messages=said, extra_body=GREEDY)
    assert begun + answer.content[0].text == ANSWER


def test_tokens_are_counted(client: Any) -> None:
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, {"type": "text", "text": ""}]
    counted = client.messages.count_tokens(model=MODEL, messages=ASKED, system=system)
    assert counted.input_tokens == 10


def test_a_failure_is_told_in_its_own_form(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="another", max_tokens=3, messages=ASKED)
    assert caught.value.type == "not_found_error"
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.type"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"stop_sequences": ["x"] * 10_000}, "stop_sequences"),
        ({"temperature": 5}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    ],
)
def test_what_is_wrong_is_named(gateway: Gateway, change: dict[str, Any], field: str) -> None:
    status, headers, told = gateway.ask(PATH, {**FINE, **change})
    assert status == 400, told
    assert told["error"]["message"].startswith(field)
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert told["request_id"] == headers["request-id"]


def test_other_methods_are_refused_in_the_same_form(gateway: Gateway) -> None:
    assert gateway.ask(PATH)[0] == 405
    assert gateway.ask(PATH)[2]["type"] == "error"

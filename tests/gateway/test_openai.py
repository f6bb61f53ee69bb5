"""OpenAI's own library, and requests that it would not send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.demo_model import ANSWER, QUESTION
from tests.gateway.serving import MODEL, Gateway
from tests.swarms import wait_until

ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Any]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as found:
        yield found


def test_models_are_listed_and_found(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "swarm"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("another")
    assert caught.value.code == "model_not_found"


def test_a_conversation_is_answered(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 10
    assert answer.usage.completion_tokens == answer.usage.total_tokens - 10 == 18


def test_a_stream_says_the_same_piece_by_piece(client: Any) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert len(chunks) > 10
    assert (last.choices, last.usage.completion_tokens) == ([], 18)


def test_a_stream_that_is_closed_ends_the_answer(client: Any, gateway: Gateway) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=480, stream=True, n=8, extra_body={"ignore_eos": True}
    ) as stream:
        next(stream)
    wait_until(lambda: gateway.ask("/swarm")[2]["answers"] == [], 2, "nobody is answered any more")


def test_the_next_turn_computes_only_what_is_new(client: Any) -> None:
    first = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0)
    said = [*ASKED, {"role": "assistant", "content": first.choices[0].message.content}]
    asked = [*said, {"role": "user", "content": "What is a hop?"}]
    second = client.chat.completions.create(model=MODEL, messages=asked, temperature=0, max_tokens=5)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.total_tokens - 1


def test_several_answers_have_seeds_of_their_own(client: Any) -> None:
    def draw(**settings: Any) -> list[str]:
        answer = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=2, max_tokens=8, **settings)
        assert [choice.index for choice in answer.choices] == list(range(settings.get("n", 1)))
        return [choice.message.content for choice in answer.choices]

    three = draw(n=3, seed=7)
    assert len(set(three)) == 3
    assert draw(seed=8) == three[1:2]


def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, stop=[" nodes", "x"])
    assert answer.choices[0].message.content == ANSWER[: ANSWER.index(" nodes")]
    assert answer.choices[0].finish_reason == "stop"


def test_tokens_come_with_how_likely_they_were(client: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, max_tokens=3, logprobs=True, top_logprobs=3
    )
    rows = answer.choices[0].logprobs.content
    assert bytes(byte for row in rows for byte in row.bytes).decode().strip() == ANSWER[:10]
    for row in rows:
        assert len(row.top_logprobs) == 3
        assert row.top_logprobs[0].token == row.token
        assert row.top_logprobs[0].logprob == row.logprob <= 0


def test_a_prompt_goes_on_and_is_told_again_with_how_likely_it_is(client: Any) -> None:
    asked = {"model": MODEL, "prompt": "A route is the chain", "temperature": 0}
    plain = client.completions.create(**asked, max_tokens=4)
    told = client.completions.create(**asked, max_tokens=4, echo=True, logprobs=2)
    streamed = list(client.completions.create(**asked, max_tokens=4, echo=True, logprobs=2, stream=True))
    assert told.choices[0].text == asked["prompt"] + plain.choices[0].text
    rows = told.choices[0].logprobs
    assert rows.token_logprobs[0] is None
    assert len(rows.tokens) == told.usage.total_tokens
    assert "".join(rows.tokens).startswith(told.choices[0].text)
    assert rows.text_offset[1] == len(rows.tokens[0])
    assert "".join(chunk.choices[0].text for chunk in streamed) == told.choices[0].text
    pieces = [value for chunk in streamed for value in chunk.choices[0].logprobs.token_logprobs]
    assert pieces == rows.token_logprobs


def test_scores_of_a_prompt_alone_are_those_of_its_tokens(client: Any) -> None:
    whole = client.completions.create(model=MODEL, prompt="A route is the chain", max_tokens=0, echo=True, logprobs=1)
    half = client.completions.create(model=MODEL, prompt="A route is", max_tokens=0, echo=True, logprobs=1)
    assert half.choices[0].logprobs.token_logprobs == whole.choices[0].logprobs.token_logprobs[:3]
    assert whole.choices[0].text == "A route is the chain"
    assert whole.usage.completion_tokens == 0


@pytest.mark.parametrize("path", ["chat", "completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_chain_and_how_long_it_took_are_told_if_asked_for(client: Any, path: str, stream: bool) -> None:
    asked = {
        "model": MODEL,
        "max_tokens": 6,
        "temperature": 0,
        "extra_body": {"route": True, "timings": True, "why": True},
    }
    if path == "chat":
        told = client.chat.completions.create(messages=ASKED, stream=stream, **asked)
    else:
        told = client.completions.create(prompt="A route is the chain of", stream=stream, **asked)
    last = list(told)[-1].choices[0] if stream else told.choices[0]
    assert [hop["part"] for hop in last.route] == ["b 0-6 e"]
    assert last.timings["predicted_n"] == 6
    assert last.timings["predicted_per_second"] > 0
    assert [hop["part"] for hop in last.why["hops"]] == ["b 0-6 e"]
    assert "of a token" in last.why["said"]
    assert last.timings["cache_n"] + last.timings["prompt_n"] == (10 if path == "chat" else 6)


def test_prompts_are_answered_in_their_order(client: Any) -> None:
    ids = [3, 1, 4]
    answer = client.completions.create(model=MODEL, prompt=[ids, [1, 5], [9]], n=2, max_tokens=3, temperature=0)
    assert [choice.index for choice in answer.choices] == list(range(6))
    texts = [choice.text for choice in answer.choices]
    alone = client.completions.create(model=MODEL, prompt=ids, max_tokens=3, temperature=0)
    assert texts[:2] == [alone.choices[0].text] * 2
    assert answer.usage.prompt_tokens == 6


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (CHAT, {"max_tokens": True}, "max_tokens"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        (CHAT, {"temperature": "warm"}, "temperature"),
        (CHAT, {"temperature": -1}, "temperature"),
        (CHAT, {"temperature": 3}, "temperature"),
        (CHAT, {"top_p": 0}, "top_p"),
        (CHAT, {"n": 1000}, "n"),
        (CHAT, {"stop": ["x"] * 10_000}, "stop"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools"),
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"logit_bias": {"5": 3}}, "logit_bias"),
        (CHAT, {"presence_penalty": 0.5}, "presence_penalty"),
        (CHAT, {"seed": 1.5}, "seed"),
        (TEXT, {"prompt": []}, "prompt"),
        (TEXT, {"prompt": ""}, "prompt"),
        (TEXT, {"prompt": [1, "x"]}, "prompt"),
        (TEXT, {"prompt": [1 << 30]}, "prompt"),
        (TEXT, {"prompt": [-1]}, "prompt"),
        (TEXT, {"prompt": [[1], [1 << 70]]}, "prompt"),
        (TEXT, {"suffix": "end"}, "suffix"),
        (TEXT, {"best_of": 4}, "best_of"),
        (TEXT, {"logprobs": 21}, "logprobs"),
    ],
)
def test_what_is_wrong_is_named(gateway: Gateway, path: str, change: dict[str, Any], field: str) -> None:
    fine = {"model": MODEL, "messages": ASKED} if path == CHAT else {"model": MODEL, "prompt": "x"}
    status, _, told = gateway.ask(path, {**fine, **change})
    assert status == 400, told
    assert told["error"]["type"] == "invalid_request_error"
    assert (told["error"]["param"] or "").split("[")[0] == field.split("[")[0], told
    assert set(told["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "user": "me", "store": True},
        {"temperature": None, "top_p": None, "stop": None, "n": None, "seed": -5},
        {
            "messages": [
                {"role": "developer", "content": "x"},
                {"role": "user", "content": [{"type": "text", "text": "y"}]},
            ]
        },
        {"unheard_of": {"deep": [1]}},
    ],
)
def test_what_changes_nothing_is_let_through(gateway: Gateway, change: dict[str, Any]) -> None:
    status, _, told = gateway.ask(CHAT, {"model": MODEL, "messages": ASKED, "max_tokens": 2, **change})
    assert status == 200, told


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b'{"model": "swarm-demo", "messages": [], "temperature": NaN}',
        b'{"model": "swarm-demo", "prompt": "\xff"}',
        b"[" * 100_000,
        b'{"model": ' + b"9" * 5000 + b"}",
        json.dumps({"model": MODEL}).encode("utf-16"),
    ],
)
def test_what_is_no_json_is_refused(gateway: Gateway, body: bytes) -> None:
    status, _, told = gateway.ask(CHAT, body)
    assert status == 400
    assert told["error"]["message"]


def test_a_number_that_is_not_finite_is_refused(gateway: Gateway) -> None:
    body = b'{"model": "swarm-demo", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}'
    assert gateway.ask(CHAT, body)[0] == 400


def test_a_body_that_is_too_large_is_refused_before_it_is_read(gateway: Gateway) -> None:
    connection = gateway.connect()
    connection.putrequest("POST", CHAT)
    connection.putheader("content-length", str(100 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "request_too_large"


def test_a_prompt_beyond_the_context_is_refused(gateway: Gateway) -> None:
    status, _, told = gateway.ask(TEXT, {"model": MODEL, "prompt": [5] * 512})
    assert (status, told["error"]["code"]) == (400, "context_length_exceeded")


def test_routes_that_there_are_not_are_told_in_the_same_form(gateway: Gateway) -> None:
    assert gateway.ask("/v1/nothing")[0] == 404
    assert gateway.ask(CHAT)[0] == 405
    assert gateway.ask(CHAT)[2]["error"]["type"] == "invalid_request_error"

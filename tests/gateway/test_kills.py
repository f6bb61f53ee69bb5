"""Nodes that die under streams of OpenAI's and Anthropic's own libraries: what comes is what would have come."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI

from swarm.testing.integer_model import IntegerModel
from tests.gateway.words import NAME, Words, words
from tests.swarms import wait_until

pytestmark = pytest.mark.long

MODEL = IntegerModel(layer_seconds=0.0004)
PARTS = ["b 0-6", "6-12 e"]
TOKENS = 60
INDICES = range(0, TOKENS, 3)  # twenty
ASKED = [{"role": "user", "content": "w1 w2 w3 w4 w5"}]
# What tells two runs apart: ids, times, signs of life.
PASSING = re.compile(rb'"(?:chatcmpl|msg)[-_][0-9a-f]+"|"created": \d+|: keep-alive\n\n|event: ping\ndata: [^\n]+\n\n')


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Words]:
    with words(tmp_path_factory.mktemp("kills"), MODEL, PARTS * 2, 500) as made:
        yield made


def openai_bytes(swarm: Words) -> Iterator[bytes]:
    with OpenAI(base_url=f"{swarm.gateway.url}/v1", api_key="any", max_retries=0) as client:
        asked: Any = {"model": NAME, "messages": ASKED, "max_tokens": TOKENS, "temperature": 0, "stream": True}
        with client.chat.completions.with_streaming_response.create(**asked) as answer:
            yield from answer.iter_bytes()


def anthropic_bytes(swarm: Words) -> Iterator[bytes]:
    with Anthropic(base_url=swarm.gateway.url, api_key="any", max_retries=0) as client:
        asked: Any = {"model": NAME, "messages": ASKED, "max_tokens": TOKENS, "stream": True}
        with client.messages.with_streaming_response.create(**asked, extra_body={"temperature": 0}) as answer:
            yield from answer.iter_bytes()


def read(pieces: Iterator[bytes], at: int = -1, trouble: Callable[[], None] = lambda: None) -> bytes:
    """A whole stream; something happens once a token of it has come. Without what tells two runs apart."""
    told = b""
    for piece in pieces:
        told += piece
        if at >= 0 and told.count(b" w") + told.count(b'"w') > at:
            at = -1
            trouble()
    return PASSING.sub(b"", told)


@pytest.mark.parametrize("ask", [openai_bytes, anthropic_bytes], ids=["openai", "anthropic"])
@pytest.mark.parametrize("hop", [0, 1])
def test_each_node_dies_at_twenty_tokens_and_no_byte_changes(
    swarm: Words, ask: Callable[[Words], Iterator[bytes]], hop: int
) -> None:
    read(ask(swarm))  # so that what comes then has its prompt cached, as all others have
    expected = read(ask(swarm))
    assert expected.count(b" w") >= TOKENS - 1
    before = count_reroutes(swarm)
    for at in INDICES:
        spare: list[threading.Thread] = []

        def kill(spare: list[threading.Thread] = spare) -> None:
            (answer,) = swarm.gateway.ask("/swarm")[2]["answers"]
            swarm.find(answer["route"][hop]["node"]).popen.kill()
            spare.append(threading.Thread(target=lambda: swarm.add(PARTS[hop])))
            spare[0].start()

        assert read(ask(swarm), at, kill) == expected, f"hop {hop} killed at token {at}"
        spare[0].join()
        wait_until(lambda: swarm.count() == 4, 20, "the gateway sees the node that has come")
    assert count_reroutes(swarm) - before >= len(INDICES) - 2, "but for the last tokens, answers changed their chains"


def count_reroutes(swarm: Words) -> int:
    connection = swarm.gateway.connect()
    connection.request("GET", "/metrics")
    found = re.search(r"^swarm_reroutes_total\{.*\} (\S+)$", connection.getresponse().read().decode(), re.MULTILINE)
    connection.close()
    return int(float(found[1])) if found else 0


def test_sixty_four_streams_are_what_each_would_be_alone(swarm: Words) -> None:
    """Two of the four nodes die meanwhile."""
    prompts = [f"w{number} w{number + 1} w{2 * number}" for number in range(64)]

    async def stream(client: AsyncOpenAI, prompt: str, is_first: bool) -> str:
        asked: Any = {"model": NAME, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        told, count = "", 0
        async for chunk in await client.chat.completions.create(**asked, max_tokens=TOKENS, stream=True):
            told += chunk.choices[0].delta.content or ""
            count += 1
            if is_first and count in (10, 30):
                node = swarm.gateway.ask("/swarm")[2]["answers"][0]["route"][count == 30]["node"]
                swarm.find(node).popen.kill()
        return told

    async def run() -> list[str]:
        async with AsyncOpenAI(base_url=f"{swarm.gateway.url}/v1", api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(stream(client, prompt, not number) for number, prompt in enumerate(prompts)))

    told = asyncio.run(run())
    for prompt, text in zip(prompts, told, strict=True):
        ids = [int(word[1:]) for word in prompt.split()]
        expected = [f"w{token}" for token in MODEL.answer(ids, TOKENS)]
        assert text.split() == expected

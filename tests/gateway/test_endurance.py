"""A gateway over thousands of requests, over changes of the swarm, and under far more than it can take."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from anthropic import Anthropic
from openai import OpenAI

from swarm.testing.integer_model import IntegerModel
from tests.gateway.soak import MODEL, PARTS, run
from tests.gateway.words import NAME, Words, words
from tests.swarms import wait_until

pytestmark = pytest.mark.long

REQUESTS = 2000
GROWN_BYTES = 4_000_000  # sixty-four sessions that rest keep their conversations' ids
GROWN_DESCRIPTORS = 8  # connections that rest for the next request
LONG = {
    "model": NAME,
    "messages": [{"role": "user", "content": "w1"}],
    "max_tokens": 3000,
    "temperature": 0,
    "stream": True,
}


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Words]:
    with words(tmp_path_factory.mktemp("endurance"), MODEL, PARTS * 2, 600) as made:
        yield made


def test_a_swarm_that_changes_all_the_time_fails_no_request(swarm: Words) -> None:
    seen = run(swarm, 40, seed=3)
    print(seen.describe())
    assert seen.failed == []
    assert seen.changes["joined"] > 0
    assert seen.changes["killed"] + seen.changes["left"] > 0
    assert seen.requests > 100


def test_two_thousand_requests_leave_nothing_behind(swarm: Words) -> None:
    seen = run(swarm, 240, seed=4, callers=12, rest_seconds=0.0, has_changes=False, most=REQUESTS)
    print(seen.describe())
    assert seen.failed == []
    assert seen.requests >= REQUESTS
    assert seen.last[0] - seen.warm[0] < GROWN_BYTES
    assert seen.last[1] - seen.warm[1] < GROWN_DESCRIPTORS


def test_ten_times_as_much_as_there_is_room_for_is_refused_and_comes_by_trying_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Room for four sessions, forty callers at once: the library waits as it is told, and all are answered."""
    model = IntegerModel(layer_seconds=0.003, context=100)
    room = 4 * 100 * 12 * 8  # four whole contexts, a number a layer and position
    with words(tmp_path_factory.mktemp("overload"), model, ["f"], 640, kv_capacity=room) as swarm:
        refused = Counter[str]()
        texts: dict[int, Any] = {}

        def ask(number: int) -> None:
            asked: Any = {"model": NAME, "messages": [{"role": "user", "content": f"w{number} w1"}], "max_tokens": 60}
            if number % 2:
                with OpenAI(base_url=f"{swarm.gateway.url}/v1", api_key="any", max_retries=20) as client:
                    texts[number] = client.chat.completions.create(**asked, temperature=0).choices[0].message.content
            else:
                with Anthropic(base_url=swarm.gateway.url, api_key="any", max_retries=20) as other:
                    answer = other.messages.create(**asked, extra_body={"temperature": 0})
                texts[number] = answer.content[0].text

        callers = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        connection = swarm.gateway.connect()
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if line.startswith("swarm_refused_total"):
                refused[line.partition('status="')[2][:3]] = int(float(line.rpartition(" ")[2]))
        assert {number: text.split() for number, text in texts.items()} == {
            number: [f"w{token}" for token in model.answer([number, 1], 60)] for number in range(40)
        }
        print(f"refused: {dict(refused)}")
        assert set(refused) == {"429"}


def test_a_gateway_that_is_killed_leaves_the_nodes_nothing_and_another_one_serves(swarm: Words) -> None:
    connection = swarm.gateway.connect()
    connection.request("POST", "/v1/chat/completions", json.dumps(LONG))
    assert next(iter(connection.getresponse())).startswith(b"data: {")
    swarm.gateway.process.kill()
    swarm.gateway.process.wait()
    swarm.gateway = swarm.open_gateway()
    status, _, told = swarm.gateway.ask("/v1/chat/completions", {**LONG, "max_tokens": 5, "stream": False})
    assert status == 200
    assert told["choices"][0]["message"]["content"].split() == [f"w{one}" for one in MODEL.answer([1], 5)]

    def is_free() -> bool:
        return sum(node["sessions"] for node in swarm.gateway.ask("/swarm")[2]["nodes"]) <= len(PARTS)  # the new one's

    wait_until(is_free, 10, "nodes have forgotten what the gateway that died had asked for")


def test_readers_that_read_nothing_hold_nobody_up(swarm: Words) -> None:
    """Twenty of them, each with a long answer; another caller's comes as always."""
    data = json.dumps(LONG).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    deaf = [socket.create_connection(swarm.gateway.address, 5) for _ in range(20)]
    for one in deaf:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(head + data)
    begun = time.monotonic()
    status, _, _ = swarm.gateway.ask("/v1/chat/completions", {**LONG, "max_tokens": 20, "stream": False})
    assert status == 200
    assert time.monotonic() - begun < 10
    memory = psutil.Process(swarm.gateway.process.pid).memory_info().rss
    assert memory < 200e6
    for one in deaf:
        one.close()
    wait_until(
        lambda: not swarm.gateway.ask("/swarm")[2]["answers"], 10, "what was asked for by those who left has ended"
    )

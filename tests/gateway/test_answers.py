"""Answers through everything that happens to them: nodes that die, callers that go away or read nothing, no room."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.parts import parse_part
from tests.demo_model import LOOPBACK, WEIGHTS
from tests.gateway.serving import ADDRESSES, MODEL, PORTS, Gateway, find_busy, start_three, start_two
from tests.processes import Node, stop_all

CHAT = "/v1/chat/completions"
LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me all."}],
    "temperature": 2,
    "seed": 5,
    "stream": True,
    "ignore_eos": True,
}


def count_sessions(gateway: Gateway) -> int:
    """Of all nodes, as their last beats tell."""
    return sum(node["sessions"] for node in gateway.ask("/swarm")[2]["nodes"])


def lines_of(answer: Any) -> Iterator[dict[str, Any]]:
    for line in answer:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def text_of(chunk: dict[str, Any]) -> str:
    return chunk["choices"][0]["delta"].get("content", "")


def test_a_node_that_dies_in_mid_answer_is_a_pause_and_no_word_changes(tmp_path: Path) -> None:
    nodes = start_two(tmp_path)
    gateway = Gateway(tmp_path, ADDRESSES)
    try:
        texts = [answer_through(gateway, lambda: None), answer_through(gateway, lambda: find_busy(nodes).kill())]
    finally:
        gateway.stop()
        stop_all([node for node in nodes if node.process.poll() is None])
    assert texts[0] == texts[1]
    assert len(texts[0]) > 200


@pytest.mark.parametrize(
    "victim", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)]
)
def test_those_who_are_left_read_what_one_kept_and_no_word_changes(victim: int, tmp_path: Path) -> None:
    """No two of them can keep the model: they have to share it anew before the answer goes on."""
    nodes = start_three(tmp_path, "6.8MB")
    gateway = Gateway(tmp_path, ADDRESSES)
    try:
        wait_for(lambda: count_layers(gateway) == (6, 0), 20)
        texts = [answer_through(gateway, lambda: None, 120), answer_through(gateway, nodes[victim].kill, 120)]
        assert count_layers(gateway)[1] > 0
    finally:
        gateway.stop()
        stop_all([node for node in nodes if node.process.poll() is None])
    assert texts[0] == texts[1]
    assert len(texts[0]) > 100


def count_layers(gateway: Gateway) -> tuple[int, int]:
    """Served by all nodes together, and how many of these come from disk each time."""
    claims = [claim for node in gateway.ask("/swarm")[2]["nodes"] for claim in node["claims"]]
    return sum(parse_part(claim["part"], 6).layer_count for claim in claims), sum(claim["streamed"] for claim in claims)


def answer_through(gateway: Gateway, trouble: Callable[[], None], tokens: int = 400) -> str:
    """The text of a long answer, in whose middle something happens."""
    body = json.dumps({**LONG, "max_tokens": tokens}).encode()
    connection = gateway.connect()
    connection.request("POST", CHAT, body)
    text = ""
    for number, chunk in enumerate(lines_of(connection.getresponse())):
        assert "error" not in chunk, chunk
        text += text_of(chunk)
        if number == 30:
            trouble()
    return text


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_caller_that_goes_away_leaves_nothing_behind(gateway: Gateway, is_streamed: bool) -> None:
    before = count_sessions(gateway)
    connection = gateway.connect()
    several = {**LONG, "max_tokens": 480, "n": 16, "stream": is_streamed}  # so that they take a while
    connection.request("POST", CHAT, json.dumps(several).encode())
    wait_for(lambda: count_sessions(gateway) >= before + 16, 15)
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    wait_for(lambda: count_sessions(gateway) == before, 5)


@pytest.mark.long
def test_whoever_is_still_answered_when_the_gateway_stops_is_told(tmp_path: Path) -> None:
    """The only node stands still, so that the answer cannot come to its end in the time that there is left."""
    node = Node(tmp_path, ["--weights", WEIGHTS, *LOOPBACK, "--no-mdns", "--part", "f", "--port", str(PORTS[0])])
    node.wait_ready()
    gateway = Gateway(tmp_path, ADDRESSES[:1])
    try:
        connection = gateway.connect()
        connection.request("POST", CHAT, json.dumps({**LONG, "max_tokens": 480}).encode())
        answer = connection.getresponse()
        lines = iter(answer)
        assert next(lines).startswith(b"data: {")
        node.process.send_signal(signal.SIGSTOP)
        gateway.process.terminate()
        *_, last, _, done, _ = lines
        assert "the gateway stops" in json.loads(last[6:])["error"]["message"]
        assert done == b"data: [DONE]\n"
        gateway.process.wait(5)
    finally:
        node.process.send_signal(signal.SIGCONT)
        node.stop()
        gateway.stop()


def wait_for(is_so: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_chain_is_told_with_what_is_missing(tmp_path: Path) -> None:
    node = Node(
        tmp_path,
        ["--weights", WEIGHTS, *LOOPBACK, "--no-mdns", "--part", "b 0-4", "--port", str(PORTS[0])],
    )
    gateway = None
    try:
        node.wait_ready()
        gateway = Gateway(tmp_path, [f"127.0.0.1:{PORTS[0]}"])
        wait_for(lambda: gateway.ask("/health")[2]["nodes"] == 1, 5)
        status, headers, told = gateway.ask(CHAT, {**LONG, "stream": False})
        assert status == 503
        assert "layers 4-6 and end" in told["error"]["message"] or "4-6" in told["error"]["message"]
        assert float(headers["retry-after"]) > 0
        assert gateway.ask("/health")[0] == 503
    finally:
        node.stop()
        if gateway is not None:
            gateway.stop()


def test_a_key_guards_all_but_the_health(swarm_home: Path, node_address: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesam\n")
    gateway = Gateway(swarm_home, [node_address], ["--api-key-file", str(tmp_path / "key")])
    try:
        assert gateway.ask("/v1/models")[0] == 401
        assert gateway.ask("/v1/models", headers={"authorization": "Bearer sesam"})[0] == 200
        assert gateway.ask("/v1/models", headers={"x-api-key": "sesam"})[0] == 200
        assert gateway.ask("/v1/models", headers={"authorization": "Bearer sesam", "host": "evil.example"})[0] == 403
        wait_for(lambda: gateway.ask("/health")[0] == 200, 5)
    finally:
        gateway.stop()

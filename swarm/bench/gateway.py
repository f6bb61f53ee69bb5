"""What the gateway costs: the same answers through it and from the nodes by a client of the swarm, in turn.

Besides: the second turn of a long conversation, also after a node has died between the turns, and many streams beside
transformers' static batch.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from swarm.bench.checkpoint import read_decoder, split_evenly
from swarm.bench.rival import Rival
from swarm.bench.rounds import measure_rounds
from swarm.bench.swarm_side import HOST, SwarmSide, rate_together

PORT = 19700
REST_SECONDS = 0.5  # until nodes take the answer before for over, and spare it nothing
EVENT = b'data: {"id"'


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    """What to run."""

    nodes: int = 3
    rounds: int = 5
    prompt_tokens: int = 64
    new_tokens: int = 96
    streams: int = 64
    tokens_of_many: int = 32  # of each of these
    first_tokens: int = 9  # answers by either way, of which only the first token is looked at
    rival_streams: int = 16
    conversation_tokens: int = 4000
    has_rival: bool = False


@dataclass(slots=True)
class Streamed:
    """When a stream was asked for, and when its tokens came, by perf_counter."""

    asked: float
    times: list[float] = field(default_factory=list[float])

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.asked

    @property
    def gap(self) -> float:
        """Seconds a token after that."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


class GatewaySide:
    """A swarm-gateway process over a side's nodes. Use as a context manager."""

    def __init__(self, side: SwarmSide) -> None:
        self._side = side

    def __enter__(self) -> GatewaySide:
        peers = [word for address in self._side.addresses for word in ("--peer", address)]
        command = [sys.executable, "-m", "swarm.cli", "gateway", "--no-mdns", "--port", "0", *peers]
        self._process = subprocess.Popen(command, env=self._side.environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline().strip().rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What it answers with; raises RuntimeError for a refusal."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=600)
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        told = json.load(answer)
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"the gateway answers {answer.status}: {told}")
        return told

    def stream(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[Streamed]:
        """Several streams at once, read by one thread that does nothing else. Raises RuntimeError for a refusal."""
        waiting = selectors.DefaultSelector()
        streams: list[Streamed] = []
        for number, body in enumerate(bodies):
            data = json.dumps({**body, "stream": True}).encode()
            head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
            connection = socket.create_connection((HOST, self._port))
            streams.append(Streamed(time.perf_counter()))
            connection.sendall(head.encode() + data)
            waiting.register(connection, selectors.EVENT_READ, number)
        while waiting.get_map():
            for key, _ in waiting.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                told = connection.recv(1 << 16)
                if b"HTTP/1.1 4" in told or b"HTTP/1.1 5" in told or b'"error"' in told:
                    raise RuntimeError(told.decode())
                streams[key.data].times += [time.perf_counter()] * told.count(EVENT)
                if not told:
                    waiting.unregister(connection)
                    connection.close()
        for stream in streams:
            stream.times.pop()  # the last event tells only why it ended
        return streams


def run(plan: GatewayPlan, weights: Path, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Every figure by name. weights: of a model with a tokenizer. folder: for what the nodes keep."""
    decoder = read_decoder(weights)
    parts = split_evenly(decoder, plan.nodes)
    with contextlib.ExitStack() as stack:
        say(f"starting {plan.nodes} nodes and a gateway")
        side = stack.enter_context(SwarmSide(weights, parts, folder / "nodes", PORT))
        gateway = stack.enter_context(GatewaySide(side))
        rival = None
        if plan.has_rival:
            say("starting transformers")
            rival = Rival(weights)
            stack.callback(rival.close)
        figures = measure_rounds(plan.rounds, lambda number: _measure(plan, side, gateway, rival, number), say)
        say("a long conversation, with one more node for the last part")
        side.add_node(parts[-1])
        figures |= measure_rounds(2, lambda number: _talk(plan, side, gateway, number), say)
        return figures | _talk(plan, side, gateway, 99, side.kill)


def _measure(
    plan: GatewayPlan, side: SwarmSide, gateway: GatewaySide, rival: Rival | None, number: int
) -> dict[str, float]:
    """The same work by either way; every prompt is a new one, so that nothing is cached."""
    seed = 10_000 * number
    one, more = plan.new_tokens, plan.tokens_of_many
    direct, through = _ask_nodes(plan, side, 1, one, seed)[0], _ask_gateway(plan, side, gateway, 1, one, seed + 1)[0]
    many = _ask_nodes(plan, side, plan.streams, more, seed + 100)
    many_through = _ask_gateway(plan, side, gateway, plan.streams, more, seed + 1100)
    figures = {
        "token_ms": 1000 * direct.gap,
        "gateway_token_ms": 1000 * through.gap,
        "gateway_cost_ms": 1000 * (through.gap - direct.gap),
        **_first_tokens(plan, side, gateway, seed + 3100),
        "many_tokens_per_second": _speed(many),
        "gateway_many_tokens_per_second": _speed(many_through),
        "gateway_many_ratio": _speed(many_through) / _speed(many),
        "load_average": os.getloadavg()[0],
    }
    if rival is not None:
        static = rival.measure(plan.rival_streams, plan.prompt_tokens, plan.new_tokens)["decode_tokens_per_second"]
        streams = _ask_gateway(plan, side, gateway, plan.rival_streams, one, seed + 2100)
        ours = rate_together([one.times for one in streams])
        figures |= {
            "rival_static_tokens_per_second": static,
            "gateway_streams_tokens_per_second": ours,
            "gateway_streams_ratio": ours / static,
        }
    return figures


def _first_tokens(plan: GatewayPlan, side: SwarmSide, gateway: GatewaySide, seed: int) -> dict[str, float]:
    """Medians of answers by either way in turn: what has just been run besides makes more of a difference than the way."""
    direct: list[float] = []
    through: list[float] = []
    for number in range(plan.first_tokens):
        time.sleep(REST_SECONDS)
        direct += [one.first for one in _ask_nodes(plan, side, 1, 4, seed + 2 * number)]
        time.sleep(REST_SECONDS)
        through += [one.first for one in _ask_gateway(plan, side, gateway, 1, 4, seed + 2 * number + 1)]
    return {
        "first_token_ms": 1000 * median(direct),
        "gateway_first_token_ms": 1000 * median(through),
        "gateway_first_token_cost_ms": 1000 * (median(through) - median(direct)),
    }


def _ask_nodes(plan: GatewayPlan, side: SwarmSide, count: int, tokens: int, seed: int) -> list[Streamed]:
    streams = [Streamed(0.0) for _ in range(count)]

    def work(number: int) -> None:
        streams[number].asked = time.perf_counter()
        side.stream(plan.prompt_tokens, tokens, seed + number, streams[number].times.append)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams


def _ask_gateway(
    plan: GatewayPlan, side: SwarmSide, gateway: GatewaySide, count: int, tokens: int, seed: int
) -> list[Streamed]:
    asked = {"model": side.card.name, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    prompts = [side.make_prompt(plan.prompt_tokens, seed + number) for number in range(count)]
    return gateway.stream("/v1/completions", [{**asked, "prompt": prompt} for prompt in prompts])


def _speed(streams: Sequence[Streamed]) -> float:
    """Tokens a second of all, from the first question to the last token."""
    begun, ended = min(one.asked for one in streams), max(one.times[-1] for one in streams)
    return sum(len(one.times) for one in streams) / (ended - begun)


def _talk(
    plan: GatewayPlan, side: SwarmSide, gateway: GatewaySide, number: int, kill: Callable[[str], None] | None = None
) -> dict[str, float]:
    """Two turns of a conversation; `kill` ends the node of an id between them."""
    prompt = side.make_prompt(plan.conversation_tokens, 77_000 + number)
    asked = {"model": side.card.name, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    (first,) = gateway.stream("/v1/completions", [{**asked, "prompt": prompt}])
    answer = gateway.ask("/v1/completions", {**asked, "prompt": prompt, "route": True, "logprobs": 0})["choices"][0]
    said = gateway.ask("/tokenize", {"prompt": answer["text"], "add_special_tokens": False})["tokens"]
    if kill is not None:
        kill(answer["route"][-1]["node"])
    (second,) = gateway.stream("/v1/completions", [{**asked, "prompt": [*prompt, *said, *prompt[:16]]}])
    name = "turn" if kill is None else "turn_after_a_kill"
    return {
        "first_turn_ms": 1000 * first.first,
        f"second_{name}_ms": 1000 * second.first,
        f"second_{name}_ratio": second.first / first.first,
    }

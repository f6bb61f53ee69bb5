"""Nodes join, move, leave and come back under running answers: real processes, real sockets, the model of integers."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from swarm.client.swarm import SwarmClient
from swarm.plan.holdings import Forecast
from swarm.plan.moves import plan_moves
from swarm.plan.view import read_planned
from swarm.testing.integer_model import MODEL_ID, IntegerModel
from tests.integer_client import PROMPT, make_prompt
from tests.integer_processes import Answer, Process, ask, client_command, end_nodes, node_processes, start_node
from tests.swarms import open_client

pytestmark = pytest.mark.long
MODEL = IntegerModel(layer_seconds=0.004, end_seconds=0.016)  # a head of four layers, as in a small model
FAST = replace(MODEL, layer_seconds=0.001, end_seconds=0.004)
MODELS = [replace(MODEL, layer_seconds=seconds) for seconds in (0.001, 0.002, 0.003)]
SHARE_SECONDS = 15.0  # until a node that joined carries its share
GAP_SECONDS = 2.0


def forecast(client: SwarmClient) -> Forecast:
    """What the plan promises, from what the nodes publish now."""
    return plan_moves(read_planned(client.beats, MODEL_ID, MODEL.layers), MODEL.layers).after


class Watch(threading.Thread):
    """Notes the best forecast that is to be had while a node joins."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.best = Forecast(0, float("inf"), 0.0)
        self.is_over = threading.Event()
        self._addresses = addresses

    def run(self) -> None:
        with open_client(self._addresses) as client:
            while not self.is_over.wait(0.2):
                now = forecast(client)
                if now.seconds_a_token < self.best.seconds_a_token:
                    self.best = now


def test_a_faster_node_joins_and_leaves_under_a_running_answer() -> None:
    """It is four times as fast as the three that are there, and has room for all."""
    tokens, leaves_at = 800, 500
    joined: list[Process] = []
    started = taken = 0.0
    speed = promised = 0.0
    answer = Answer()
    with node_processes(["+6", "+6", "+6"], MODEL) as nodes:
        watch = Watch([node.address for node in nodes])
        watch.start()
        try:
            for answer in ask(nodes, tokens):
                if len(answer.ids) == 30 and not joined:
                    started = time.monotonic()
                    threading.Thread(
                        target=lambda: joined.append(start_node("+12", 9, FAST, [node.address for node in nodes]))
                    ).start()
                if not taken and joined and set(answer.routes[-1].values()) == {joined[0].node}:
                    taken = time.monotonic()
                if len(answer.ids) == leaves_at and not speed:
                    speed = answer.tokens_per_second(100)
                    promised = 1 / watch.best.seconds_a_token
                    joined[0].leave()
        finally:
            watch.is_over.set()
            watch.join()
            end_nodes(joined)
    print(
        f"its share after {taken - started:.1f} s, {speed:.1f} tokens/s, {promised:.1f} promised, "
        f"longest gap {answer.longest_gap:.2f} s, {answer.attempts} chains"
    )
    assert answer.ids == MODEL.answer(PROMPT, tokens)
    assert 0 < taken - started < SHARE_SECONDS
    assert speed == pytest.approx(promised, rel=0.2)
    assert answer.longest_gap < GAP_SECONDS
    assert joined[0].node not in answer.routes[-1].values()


def test_a_long_prompt_is_computed_on_the_new_chain_while_the_old_one_answers() -> None:
    """The chain that a faster node makes needs 1,500 tokens before it can go on: seconds, but not of silence."""
    tokens, prompt_tokens = 400, 1500
    slow, fast = replace(MODEL, token_seconds=0.001), replace(FAST, token_seconds=0.00025)
    joined: list[Process] = []
    answer = Answer()
    with node_processes(["b 0-6", "6-12 e"], slow) as nodes:
        addresses = [node.address for node in nodes]
        try:
            for answer in ask(nodes, tokens, prompt_tokens=prompt_tokens):
                if len(answer.ids) == 30 and not joined:
                    joined.append(start_node("+12", 9, fast, addresses))
        finally:
            end_nodes(joined)
    prompt_seconds = prompt_tokens * 12 * fast.token_seconds
    print(f"longest gap {answer.longest_gap:.2f} s, the prompt takes {prompt_seconds:.1f} s on the new chain")
    assert answer.ids == MODEL.answer(make_prompt(prompt_tokens), tokens)
    assert set(answer.routes[-1].values()) == {joined[0].node}
    assert answer.longest_gap < GAP_SECONDS < prompt_seconds


def test_fifty_nodes_join_and_leave_under_four_clients() -> None:
    """Each places itself beside two that stay, serves while the next one comes, and leaves; four lines of them."""
    joins, lanes, tokens = 50, 4, 40
    expected = MODEL.answer(PROMPT, tokens)
    numbers = iter(range(10, 10 + joins))
    taking = threading.Lock()
    came: list[Process] = []
    with node_processes(["b 0-6", "6-12 e"], MODEL) as base:
        addresses = [node.address for node in base]
        command = client_command("keep-asking", base, None, tokens=tokens)
        clients = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
        ]

        def come_and_go() -> None:
            node: Process | None = None
            while True:
                with taking:
                    number = next(numbers, None)
                before, node = node, None
                if number is not None:
                    room = f"+{4 + number % 9}"
                    node = start_node(room, number, MODELS[number % 3], addresses)
                    came.append(node)
                if before is not None:
                    before.leave()
                    before.popen.wait(10)
                if node is None:
                    return

        threads = [threading.Thread(target=come_and_go) for _ in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said = [client.communicate(timeout=30)[0].splitlines() for client in clients]
        end_nodes(came)
    lines = [json.loads(line) for client in said for line in client]
    gap = max(line.get("longest_gap", 0.0) for line in lines)
    print(f"{len(came)} nodes came and went, {len(lines)} answers, longest gap {gap:.2f} s")
    assert len(came) == joins
    assert all(said)
    assert [line for line in lines if line.get("answer") != expected] == []
    assert gap < GAP_SECONDS

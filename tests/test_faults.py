"""Faults of real processes over real sockets, under a running answer: a pause, and never another token."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from swarm.client.effects import Delivered, RouteTaken
from swarm.client.session import Turn
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.keys import new_identity
from swarm.messages import Sampling
from swarm.testing.integer_model import IntegerModel
from tests.swarms import HOST, KEYS

LAYER_SECONDS = 0.003
MODEL = IntegerModel(layer_seconds=LAYER_SECONDS)
PARTS = ["b 0-4", "4-8", "8-12 e"]
PROMPT = [3, 1, 4, 1, 5]
TOKENS = 80
NOTICED_SECONDS = 5.0  # a hop that is hung or cut off
REROUTED_SECONDS = 2.0  # and what the new chain takes to catch up


@dataclass
class Process:
    """An integer node that runs by itself."""

    popen: subprocess.Popen[str]
    node: str
    address: str


@contextmanager
def processes(parts: Sequence[str]) -> Iterator[list[Process]]:
    """A node process a part, each told of those before it."""
    started: list[Process] = []
    try:
        for index, part in enumerate(parts):
            peers = [process.address for process in started]
            command = [sys.executable, "-m", "tests.integer_node", part, str(22000 + 10 * index), str(LAYER_SECONDS)]
            popen = subprocess.Popen([*command, *peers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert popen.stdout is not None
            line = popen.stdout.readline().split()
            started.append(Process(popen, *line))
        yield started
    finally:
        for process in started:
            process.popen.send_signal(signal.SIGCONT)
            process.popen.terminate()
        for process in started:
            try:
                process.popen.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.communicate()


@dataclass
class Answer:
    """What came of a turn, and when."""

    ids: list[int]
    times: list[float]
    attempts: int

    @property
    def longest_gap(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))


def answer_under(client: SwarmClient, nodes: Sequence[Process], part: str, strike: signal.Signals) -> Answer:
    """Ask, and send a signal to the hop that runs `part` in the middle of the answer."""
    session = client.open_session(client.card(client.find_model(None, 20)))
    answer = Answer([], [], 0)
    for event in session.generate(Turn(ids=PROMPT, max_tokens=TOKENS, sampling=Sampling(), stop_ids=[])):
        if isinstance(event, RouteTaken):
            answer.attempts = event.attempts
        if isinstance(event, Delivered):
            if len(answer.ids) < TOKENS // 3 <= len(answer.ids) + len(event.ids):
                victim = next(hop.node for hop in session.machine.route if str(hop.part) == part)
                next(node for node in nodes if node.node == victim).popen.send_signal(strike)
            answer.ids += event.ids
            answer.times += [time.monotonic()] * len(event.ids)
    session.cancel()
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("strike", [signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1])
def test_a_hop_that_fails_costs_a_pause(part: str, strike: signal.Signals) -> None:
    """Killed: its connections break at once. Stopped: they stand, and only its silence tells. SIGUSR1: its compute thread
    sticks while its sockets answer, and only its tick tells.
    """
    with processes([*PARTS, *PARTS]) as nodes:
        settings = ClientSettings(hosts=[HOST], peers=[node.address for node in nodes], use_mdns=False)
        with SwarmClient(settings, KEYS, new_identity()) as client:
            answer = answer_under(client, nodes, part, strike)
    print(f"{strike.name} of {part}: the longest gap was {answer.longest_gap:.2f} s")
    assert answer.ids == MODEL.answer(PROMPT, TOKENS)
    assert answer.attempts == 2
    assert answer.longest_gap < NOTICED_SECONDS + REROUTED_SECONDS

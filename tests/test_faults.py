"""Faults of real processes over real sockets, under a running answer: a pause, and never another token."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from swarm.testing.integer_model import IntegerModel
from tests import lan
from tests.integer_client import PROMPT
from tests.swarms import HOST

pytestmark = pytest.mark.slow
LAYER_SECONDS = 0.003
MODEL = IntegerModel(layer_seconds=LAYER_SECONDS)
PARTS = ["b 0-4", "4-8", "8-12 e"]
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
def processes(parts: Sequence[str], hosts: Sequence[lan.Host] = ()) -> Iterator[list[Process]]:
    """A node process a part, each told of those before it; on loopback, or each on a host of its own."""
    started: list[Process] = []
    try:
        for index, part in enumerate(parts):
            prefix, host = (hosts[index].prefix, hosts[index].address) if hosts else ([], HOST)
            port = 22000 + 10 * index
            command = [*prefix, sys.executable, "-m", "tests.integer_node", part, host, str(port), str(LAYER_SECONDS)]
            peers = [process.address for process in started]
            popen = subprocess.Popen([*command, *peers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert popen.stdout is not None
            started.append(Process(popen, *popen.stdout.readline().split()))
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

    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    attempts: int = 0

    @property
    def longest_gap(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))


def answer_under(
    strike: Callable[[Process], None], part: str, nodes: Sequence[Process], laptop: lan.Host | None = None
) -> Answer:
    """Ask from a process of its own, and strike the hop that runs `part` in the middle of the answer."""
    prefix, host = ([], HOST) if laptop is None else (laptop.prefix, laptop.address)
    command = [*prefix, sys.executable, "-m", "tests.integer_client", host, str(TOKENS)]
    answer = Answer()
    route: dict[str, str] = {}
    with subprocess.Popen([*command, *(node.address for node in nodes)], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        for line in map(json.loads, client.stdout):
            if "route" in line:
                answer.attempts = line["attempts"]
                route = dict(line["route"])
                continue
            answer.ids.append(line["id"])
            answer.times.append(line["at"])
            if len(answer.ids) == TOKENS // 3:
                strike(next(node for node in nodes if node.node == route[part]))
    return answer


def check(answer: Answer, what: str) -> None:
    print(f"{what}: the longest gap was {answer.longest_gap:.2f} s")
    assert answer.ids == MODEL.answer(PROMPT, TOKENS)
    assert answer.attempts == 2
    assert answer.longest_gap < NOTICED_SECONDS + REROUTED_SECONDS


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("strike", [signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1])
def test_a_hop_that_fails_costs_a_pause(part: str, strike: signal.Signals) -> None:
    """Killed: its connections break at once. Stopped: they stand, and only its silence tells. SIGUSR1: its compute thread
    sticks while its sockets answer, and only its tick tells.
    """
    with processes([*PARTS, *PARTS]) as nodes:
        answer = answer_under(lambda victim: victim.popen.send_signal(strike), part, nodes)
    check(answer, f"{strike.name} of {part}")


@pytest.mark.lan
@pytest.mark.skipif(not lan.is_possible(), reason=lan.REASON)
@pytest.mark.parametrize("part", PARTS)
def test_a_cut_cable_costs_a_pause(part: str) -> None:
    """No connection breaks: the hop is silent to the client and to its neighbours."""
    with lan.lan(7) as hosts, processes([*PARTS, *PARTS], hosts) as nodes:
        host_of = dict(zip((node.node for node in nodes), hosts, strict=False))
        answer = answer_under(lambda victim: host_of[victim.node].cut(), part, nodes, hosts[6])
    check(answer, f"a cut cable to {part}")

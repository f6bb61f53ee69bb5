"""Faults of real processes over real sockets, under a running answer: a pause, and never another token."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarm.testing.integer_model import IntegerModel
from tests import lan
from tests.integer_client import PROMPT
from tests.integer_processes import Answer, answer_under, check_failover, node_processes

pytestmark = pytest.mark.slow
LAYER_SECONDS = 0.003
MODEL = IntegerModel(layer_seconds=LAYER_SECONDS)
PARTS = ["b 0-4", "4-8", "8-12 e"]
TOKENS = 80


def side_by_side(fail: Callable[[str], Answer], what: str) -> None:
    """Fail each hop of a chain, each in a swarm of its own."""
    with ThreadPoolExecutor(len(PARTS)) as pool:
        for part, answer in zip(PARTS, pool.map(fail, PARTS), strict=True):
            check_failover(answer, MODEL.answer(PROMPT, TOKENS), f"{what} of {part}")
            assert answer.attempts == 2


@pytest.mark.parametrize("strike", [signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1])
def test_a_hop_that_fails_costs_a_pause(strike: signal.Signals) -> None:
    """Killed: its connections break at once. Stopped: they stand, and only its silence tells. SIGUSR1: its compute thread
    sticks while its sockets answer, and only its tick tells.
    """

    def fail(part: str) -> Answer:
        with node_processes([*PARTS, *PARTS], MODEL) as nodes:
            process_of = {node.node: node.popen for node in nodes}
            return answer_under(lambda answer: process_of[answer.routes[-1][part]].send_signal(strike), nodes, TOKENS)

    side_by_side(fail, strike.name)


@pytest.mark.lan
@pytest.mark.skipif(not lan.is_possible(), reason=lan.REASON)
def test_a_cut_cable_costs_a_pause() -> None:
    """No connection breaks: the hop is silent to the client and to its neighbours."""

    def fail(part: str) -> Answer:
        with lan.lan(7) as hosts, node_processes([*PARTS, *PARTS], MODEL, hosts) as nodes:
            host_of = dict(zip((node.node for node in nodes), hosts, strict=False))
            return answer_under(lambda answer: host_of[answer.routes[-1][part]].cut(), nodes, TOKENS, hosts[6])

    side_by_side(fail, "a cut cable")

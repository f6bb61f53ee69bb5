"""Faults of a real network under a running answer: hosts in namespaces, real processes, the model of integers."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from swarm.testing.integer_model import IntegerModel
from tests import lan
from tests.integer_client import PROMPT
from tests.integer_processes import (
    PAUSE_SECONDS,
    Answer,
    Process,
    answer_under,
    ask,
    check_failover,
    node_processes,
    see,
)

pytestmark = [pytest.mark.lan, pytest.mark.slow, pytest.mark.skipif(not lan.is_possible(), reason=lan.REASON)]
LAYER_SECONDS = 0.003
MODEL = IntegerModel(layer_seconds=LAYER_SECONDS)
TOKENS = 80
EXPECTED = MODEL.answer(PROMPT, TOKENS)
SEEN_SECONDS = 15.0  # until all see each other again
STOPPED_SECONDS = 10.0


def wait_for_nodes(wanted: int, laptop: lan.Host, node: Process) -> float:
    """Seconds until a client of one node sees so many."""
    started = time.monotonic()
    assert see([node], wanted, laptop)["nodes"] == wanted
    return time.monotonic() - started


def test_a_process_that_dies_on_another_host_costs_a_pause() -> None:
    parts = ["b 0-6", "6-12 e", "b 0-6", "6-12 e"]
    with lan.lan(5) as hosts, node_processes(parts, MODEL, hosts) as nodes:

        def strike(answer: Answer) -> None:
            next(node for node in nodes if node.node == answer.routes[-1]["b 0-6"]).popen.kill()

        answer = answer_under(strike, nodes, TOKENS, hosts[4])
    check_failover(answer, EXPECTED, "SIGKILL")


def test_connections_that_reset_cost_no_chain() -> None:
    """Those between two hops, both ways, five times; what was under way is lost with them."""
    with lan.lan(4) as hosts, node_processes(["b 0-4", "4-8", "8-12 e"], MODEL, hosts) as nodes:
        answer = Answer()
        for answer in ask(nodes, TOKENS, hosts[3]):
            if len(answer.ids) % (TOKENS // 6) == TOKENS // 6 - 1:
                hosts[0].reset(hosts[1])
                hosts[1].reset(hosts[0])
        resent = see(nodes, 3, hosts[3])["resent"]
    print(f"resets: the longest gap was {answer.longest_gap:.2f} s, {resent} messages were sent again")
    assert answer.ids == EXPECTED
    assert answer.attempts == 1
    assert answer.longest_gap < PAUSE_SECONDS
    assert resent > 0


def test_a_cable_that_is_cut_one_way_between_two_hops_costs_a_pause() -> None:
    """Both still answer the client; what the first sends to the second is lost."""
    parts = ["b 0-4", "4-8", "8-12 e", "b 0-4", "4-8", "8-12 e"]
    with lan.lan(7) as hosts, node_processes(parts, MODEL, hosts) as nodes:
        host_of = dict(zip((node.node for node in nodes), hosts, strict=False))

        def strike(answer: Answer) -> None:
            route = answer.routes[-1]
            host_of[route["b 0-4"]].lose(host_of[route["4-8"]])

        answer = answer_under(strike, nodes, TOKENS, hosts[6])
    check_failover(answer, EXPECTED, "one-way cut")


def test_a_swarm_parted_in_two_answers_in_one_half_and_is_one_again_when_healed() -> None:
    parts = ["b 0-6", "6-12 e", "b 0-6", "6-12 e"]
    with lan.lan(5) as hosts, node_processes(parts, MODEL, hosts) as nodes:
        host_of = dict(zip((node.node for node in nodes), hosts, strict=False))
        pairs: list[tuple[lan.Host, lan.Host]] = []

        def strike(answer: Answer) -> None:
            """Between the two hops, each with a node that serves what it has lost; the client is with the first."""
            first, second = (host_of[node] for node in answer.routes[-1].values())
            others = [host for host in hosts[:4] if host not in (first, second)]
            spares = sorted(others, key=lambda host: parts[hosts.index(host)])
            near, far = [hosts[4], first, spares[0]], [second, spares[1]]
            pairs.extend(pair for one in near for other in far for pair in ((one, other), (other, one)))
            for one, other in pairs:
                one.lose(other)

        answer = answer_under(strike, nodes, TOKENS, hosts[4])
        for one, other in pairs:
            one.find(other)
        seconds = wait_for_nodes(4, hosts[4], nodes[0])
        again = answer_under(lambda answer: None, nodes, TOKENS, hosts[4])
    print(f"all see each other {seconds:.1f} s after it is healed")
    # The chain that is tried first may lead into the other half, too.
    check_failover(answer, EXPECTED, "2|2", notice_seconds=PAUSE_SECONDS)
    assert again.ids == EXPECTED
    assert seconds < SEEN_SECONDS


def test_a_host_that_stops_for_ten_seconds_comes_back() -> None:
    parts = ["b 0-6", "6-12 e", "b 0-6", "6-12 e"]
    with lan.lan(5) as hosts, node_processes(parts, MODEL, hosts) as nodes:
        stopped: list[Process] = []

        def strike(answer: Answer) -> None:
            stopped.append(next(node for node in nodes if node.node == answer.routes[-1]["6-12 e"]))
            stopped[0].popen.send_signal(signal.SIGSTOP)
            threading.Timer(STOPPED_SECONDS, stopped[0].popen.send_signal, [signal.SIGCONT]).start()

        started = time.monotonic()
        answer = answer_under(strike, nodes, TOKENS, hosts[4])
        other = next(node for node in nodes if node is not stopped[0])
        wait_for_nodes(4, hosts[4], other)
        seconds = time.monotonic() - started
        again = answer_under(lambda answer: None, nodes, TOKENS, hosts[4])
    print(f"all are there {seconds:.1f} s after it began")
    check_failover(answer, EXPECTED, "SIGSTOP")
    assert again.ids == EXPECTED
    assert seconds < STOPPED_SECONDS + SEEN_SECONDS

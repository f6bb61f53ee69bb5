"""What a LAN may do to a swarm: strangers, floods, blocked multicast, a slow cable, two models of one name.

Hosts in namespaces, real processes, the model of integers. Each test says how long things took (-s shows it).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import psutil
import pytest

from swarm.testing.integer_model import IntegerModel
from tests import lan
from tests.integer_client import PROMPT, make_prompt
from tests.integer_processes import Answer, Process, ask, client_command, end_nodes, node_processes, see, start_node
from tests.swarms import wait_until

pytestmark = [pytest.mark.lan, pytest.mark.slow, pytest.mark.skipif(not lan.is_possible(), reason=lan.REASON)]
MODEL = IntegerModel(layer_seconds=0.003)
HALVES = ["b 0-6", "6-12 e"]
CALM_SECONDS = 1.0  # the longest gap in an answer that nothing has happened to
MESH_SECONDS = 10.0


@contextmanager
def hostile(what: str, count: int, host: lan.Host, nodes: Sequence[Process]) -> Iterator[subprocess.Popen[str]]:
    """tests/hostile.py under way."""
    addresses = [node.address for node in nodes]
    command = [*host.prefix, sys.executable, "-m", "tests.hostile", what, host.address, str(count), *addresses]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        yield running


def do(what: str, count: int, host: lan.Host, nodes: Sequence[Process]) -> str:
    """What comes of it."""
    with hostile(what, count, host, nodes) as running:
        said = json.loads(running.communicate(timeout=60)[0])
    print(f"{what}: {said['seconds']:.1f} s, {said['result'][:100]}")
    return said["result"]


@contextmanager
def answering(tokens: int, nodes: Sequence[Process], laptop: lan.Host) -> Iterator[Answer]:
    """An answer that runs meanwhile; whole once this is left."""
    running = ask(nodes, tokens, laptop)
    answer = next(running)
    yield answer
    done = time.monotonic()
    *_, answer = running
    assert answer.ids == MODEL.answer(PROMPT, tokens)
    assert answer.times[-1] > done, "the answer was over before what it should have gone through"


def test_strangers_old_versions_and_nonsense_change_no_answer() -> None:
    with lan.lan(4) as hosts, node_processes(HALVES, MODEL, hosts) as nodes, answering(500, nodes, hosts[2]) as answer:
        assert "wrong swarm secret, or not a swarm" in do("stranger", 1, hosts[3], nodes)
        assert "BAD_VERSION" in do("old", 1, hosts[3], nodes)
        do("nonsense", 200, hosts[3], nodes)
        assert answer.times[-1:] < [answer.asked_at + 500 * 12 * MODEL.layer_seconds], "the answer is still running"
    print(f"the longest gap was {answer.longest_gap:.2f} s")
    assert answer.attempts == 1
    assert answer.longest_gap < CALM_SECONDS


def test_a_flood_of_handshakes_keeps_nobody_out_for_long() -> None:
    """Each node may open 200 files; 400 connections at a time say nothing, and are made again as they are closed."""
    tokens = 420
    with lan.lan(5) as hosts:
        poor = [replace(host, files=200) for host in hosts[:2]]
        with (
            node_processes(HALVES, MODEL, poor) as nodes,
            answering(tokens, nodes, hosts[2]) as answer,
            hostile("knocks", 400, hosts[3], nodes) as flood,
        ):
            process = psutil.Process(nodes[0].popen.pid)
            wait_until(lambda: process.num_fds() > 190, 5, "the flood has taken what files there are")
            started = time.monotonic()
            *_, other = ask(nodes, 4, hosts[4])
            seconds = time.monotonic() - started
            is_over = flood.poll() is not None
            print(flood.communicate(timeout=60)[0].strip())
    print(f"a newcomer is answered after {seconds:.1f} s")
    print(f"the longest gap of the answer under way was {answer.longest_gap:.2f} s")
    assert other.ids == MODEL.answer(PROMPT, 4)
    assert not is_over, "the newcomer had to wait for the flood to end"
    assert answer.attempts == 1
    assert answer.longest_gap < CALM_SECONDS


def test_a_flood_of_false_adverts_hides_no_node_and_costs_few_connections() -> None:
    """Records with the swarm's own tag: nobody there, real hosts at other ports, names without anything to them."""
    tokens = 450
    with lan.lan(5) as hosts, node_processes(HALVES, MODEL, hosts, use_mdns=True) as nodes:
        process = psutil.Process(nodes[0].popen.pid)
        before = process.num_fds()
        most = before
        with answering(tokens, nodes, hosts[3]) as answer, hostile("adverts", 800, hosts[4], nodes) as flood:
            wait_until(lambda: process.num_fds() > before + 20, 10, "the adverts are followed up")
            started = time.monotonic()
            third = start_node("b 0-6", 2, MODEL, [], hosts[2], use_mdns=True)
            try:
                assert see([third], 3, hosts[3], is_mesh=True)["nodes"] == 3
                seconds = time.monotonic() - started
                is_over = flood.poll() is not None
                while flood.poll() is None:
                    most = max(most, process.num_fds())
                    with suppress(subprocess.TimeoutExpired):
                        flood.wait(0.1)
            finally:
                end_nodes([third])
    print(f"a newcomer without peers is linked to all after {seconds:.1f} s")
    print(f"the longest gap was {answer.longest_gap:.2f} s; a node's descriptors went from {before} to {most}")
    assert not is_over, "the newcomer had to wait for the flood to end"
    assert answer.attempts == 1
    assert answer.longest_gap < CALM_SECONDS
    assert most < before + 200


def test_where_multicast_is_blocked_one_peer_is_enough() -> None:
    nodes: list[Process] = []
    with lan.lan(5) as hosts:
        for host in hosts:
            host.block_multicast()
        try:
            for index, host in enumerate(hosts[:4]):
                peers = [node.address for node in nodes[:1]]
                nodes.append(start_node("f", index, MODEL, peers, host, use_mdns=True))
            started = time.monotonic()
            assert see(nodes[3:], 4, hosts[4], is_mesh=True)["nodes"] == 4
            seconds = time.monotonic() - started
            assert "no peers seen" in see([], 1, hosts[4], seconds=4)["error"], "multicast is blocked indeed"
        finally:
            end_nodes(nodes)
    print(f"all four are linked {seconds:.1f} s after the last one serves")
    assert seconds < MESH_SECONDS


def test_two_models_of_one_name_are_never_one_chain() -> None:
    """They differ in their weights alone; half of each is no model, and with both halves of one, that one answers."""
    other = replace(MODEL, weights=1)
    nodes: list[Process] = []
    with lan.lan(4) as hosts:
        try:
            nodes.append(start_node(HALVES[0], 0, MODEL, [], hosts[0]))
            nodes.append(start_node(HALVES[1], 1, other, [nodes[0].address], hosts[1]))
            command = client_command("ask", nodes, hosts[3], tokens=20, find_seconds=6)
            started = time.monotonic()
            refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            seconds = time.monotonic() - started
            assert "no chain covers integers: layers" in refused.stderr
            assert not refused.stdout
            nodes.append(start_node(HALVES[0], 2, other, [node.address for node in nodes], hosts[2]))
            *_, answer = ask(nodes, 20, hosts[3])
        finally:
            end_nodes(nodes)
    print(f"half of each: no chain, said after {seconds:.1f} s")
    assert answer.ids == other.answer(PROMPT, 20) != MODEL.answer(PROMPT, 20)
    assert set(answer.routes[0].values()) == {nodes[1].node, nodes[2].node}


def test_a_long_prompt_over_a_slow_cable_stalls_nobody() -> None:
    """16 KiB a token (a Falcon-7B has 9): 1,500 of them take two seconds on 100 Mbit/s, beside an answer under way."""
    tokens, prompt_tokens = 350, 1500
    wide = replace(MODEL, hidden=2048)
    with lan.lan(4) as hosts:
        hosts[0].limit("100mbit")
        with (
            node_processes(HALVES, wide, hosts) as nodes,
            answering(tokens, nodes, hosts[2]) as answer,
        ):
            *_, other = ask(nodes, 20, hosts[3], prompt_tokens)
    wire_seconds = prompt_tokens * 8 * wide.hidden * 8 / 100e6
    print(
        f"first token after {other.times[0] - other.asked_at:.1f} s, {wire_seconds:.1f} of them on the wire; "
        f"the longest gap of the other answer was {answer.longest_gap:.2f} s"
    )
    assert other.ids == wide.answer(make_prompt(prompt_tokens), 20)
    assert other.attempts == answer.attempts == 1
    assert answer.longest_gap < CALM_SECONDS

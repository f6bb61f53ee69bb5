"""Nodes that share a machine's cores: one that is stopped with the cores in its hands holds up nobody's answer."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from swarm.plan.routes import Hop
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from tests.checkpoints import save_sepweight
from tests.integer_client import PROMPT
from tests.integer_processes import Answer, answer_under, check_failover, node_processes
from tests.processes import Node, run_command
from tests.swarms import wait_until
from tests.test_torch_faults import Swarm, answer, expect

MODEL = IntegerModel(layer_seconds=0.003)
PARTS = ["b 0-6", "6-12 e"]
TOKENS = 60


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("at", [0, 1])
def test_a_simulated_node_that_stalls_with_the_cores_holds_nobody_up(seed: int, at: int) -> None:
    simulation = Simulation(seed, MODEL, Weather())
    first = simulation.add_node(PARTS[0])
    for part in (PARTS[1], *PARTS):
        simulation.add_node(part, beside=first)
    simulation.run(5)
    simulation.ask([1, 2, 3], 200)
    (client,) = simulation.clients.values()
    simulation.run(10, lambda: len(client.received) >= 20)
    struck = client.machine.route[at].node
    simulation.run(1, lambda: simulation.nodes[struck].machine.steps.is_computing)
    simulation.stall(struck, 1e6)
    simulation.run(20, simulation.are_answered)
    simulation.check_answers()
    assert client.longest_gap < 7
    assert sum(node.machine.steps.passed_over for node in simulation.nodes.values()) > 0


@pytest.mark.slow
def test_a_node_stopped_in_mid_batch_holds_up_no_other_on_its_machine(tmp_path: Path) -> None:
    with node_processes([*PARTS, *PARTS], MODEL, cores=str(tmp_path / "cores")) as nodes:
        process_of = {node.node: node.popen for node in nodes}

        def strike(answer: Answer) -> None:
            process_of[answer.routes[-1][PARTS[1]]].send_signal(signal.SIGUSR2)

        check_failover(answer_under(strike, nodes, TOKENS), MODEL.answer(PROMPT, TOKENS), "a neighbour that is stopped")


@pytest.mark.slow
def test_a_torch_node_stopped_in_mid_batch_holds_up_no_other_on_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # cores of its own, not those of other tests' nodes
    expected = expect(save_sepweight("40b", tmp_path / "weights"), TOKENS)
    swarm = Swarm(tmp_path / "weights", tmp_path)
    by_id: dict[str, Node] = {}
    try:
        for part in ("b 0-2", "2-4 e", "b 0-2", "2-4 e"):
            node = swarm.start(part)
            by_id[node.wait_ready()[1]] = node
        struck: list[Node] = []

        def strike(count: int, route: Sequence[Hop]) -> None:
            if count == 20 and not struck:
                struck.append(by_id[route[1].node])
                stop_in_mid_batch(struck[0].process.pid, tmp_path / f"swarm-{os.getuid()}" / "cores.held")

        with swarm.client() as client:
            ids, routes = answer(client, TOKENS, strike)
        assert ids == expected
        assert len(routes) == 2
        peer = next(node for node in swarm.nodes if node not in struck).wait_ready()[4]
        reach = ["--peer", peer, "--no-mdns", "--host", "127.0.0.1", "--json"]
        status = json.loads(run_command("status", tmp_path, reach).stdout)
        assert sum(node["passed_over"] for node in status["nodes"]) > 0
    finally:
        for node in swarm.nodes:
            node.process.send_signal(signal.SIGCONT)
        swarm.stop()


def stop_in_mid_batch(pid: int, cores: Path) -> None:
    """Stop a process while it holds its machine's cores."""
    moment = threading.Event()
    with cores.open("r+") as file:

        def are_free() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            fcntl.flock(file, fcntl.LOCK_UN)
            return True

        def is_stopped_with_them() -> bool:
            os.kill(pid, signal.SIGSTOP)
            # Whoever else has them computes for milliseconds: those that are still held then are held by the one stopped.
            if not are_free() and not moment.wait(0.05) and not are_free():
                return True
            os.kill(pid, signal.SIGCONT)
            return False

        wait_until(is_stopped_with_them, 10, "it computes")

"""Twelve cold starts of real nodes that nobody configured: mDNS, a fresh secret, the shared memory ledger."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from swarm.parts import parse_part, whole
from swarm.sepweight.manifest import read_manifest
from tests.processes import DEMO, READY, Node, stop_all
from tests.swarms import wait_until

LAYERS = read_manifest(DEMO).layers
SIZES = (["8.8MB", "8.8MB", "8.8MB"], ["7.3MB", "8.8MB", "9.3MB"])  # the whole model, its KV and scratch need 10.1 MB
COVERED_SECONDS = 10.0  # after the last process's start, its loading (1-2 s for the demo model) included


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 12))])
def test_three_nodes_started_together_cover_the_model(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    everything = set(whole(LAYERS).cells)
    memory = rng.sample(rng.choice(SIZES), 3)
    nodes: list[Node] = []
    started = time.monotonic()
    try:
        for index, size in enumerate(memory):
            options = ["--weights", str(DEMO), "--host", "127.0.0.1", "--memory", size, "--name", f"node-{index}"]
            nodes.append(Node(tmp_path, [*options, "--port", str(21000 + 200 * seed + 20 * index)]))
            threading.Event().wait(rng.uniform(0.0, 0.4))
        started = time.monotonic()
        wait_until(lambda: held(nodes) == everything, COVERED_SECONDS, "every layer is served")
        assert all(held([node]) < everything for node in nodes)
    finally:
        print(f"covered after {time.monotonic() - started:.1f} s: {[node.lines for node in nodes]}")
        stop_all(nodes)


def held(nodes: Sequence[Node]) -> set[int]:
    """The cells that the nodes' last ready lines name."""
    parts = [match[2] for node in nodes for match in map(READY.match, node.lines[-1:]) if match is not None]
    return {cell for part in parts for cell in parse_part(part, LAYERS).cells}

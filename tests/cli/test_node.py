"""swarm-node as a user meets it: its options, signals, memory, joining."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import psutil
import pytest

from swarm.cli.command import EXIT_NO_SECRET
from tests.demo_model import LOOPBACK, WEIGHTS
from tests.processes import Node, peak_memory, run_command
from tests.swarms import wait_until

Program = partial(Node, is_forked=False)


def test_a_node_without_a_secret_that_sees_a_swarm_says_how_to_join(tmp_path: Path) -> None:
    first = Program(tmp_path / "a", ["--weights", WEIGHTS, *LOOPBACK, "--port", "18970", "--part", "f"])
    try:
        first.wait_ready()
        refused = run_command("node", tmp_path / "b", ["--weights", WEIGHTS, *LOOPBACK, "--port", "18980"])
        assert refused.returncode == EXIT_NO_SECRET
        assert "ssh OTHER-MACHINE" in refused.stderr
        assert "--new-swarm" in refused.stderr
        own = Program(
            tmp_path / "b", ["--weights", WEIGHTS, *LOOPBACK, "--port", "18980", "--new-swarm", "--part", "f"]
        )
        own.wait_ready()
        own.stop()
    finally:
        first.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "/nowhere"], 1, "is not a sepweight directory"),
        (["--weights", WEIGHTS, "--part", "40-60"], 2, 'part "40-60" exceeds this model\'s 6 layers'),
        (["--weights", WEIGHTS, "--part", "b-4"], 2, '"b-4" is not a layer range'),
        (["--weights", WEIGHTS, "--memory", "1MB"], 2, "is too little for one layer of swarm-demo"),
        (["--weights", WEIGHTS, "--memory", "6MB", "--part", "f"], 2, 'part "b 0-6 e" of swarm-demo needs'),
        (["--weights", WEIGHTS, "--memory", "much"], 2, "write for example 6GB"),
        (["--weights", WEIGHTS, "--device", "gpu"], 2, "write auto, cpu or cuda:0"),
    ],
)
def test_a_node_says_what_is_wrong_with_its_options(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = run_command("node", tmp_path, [*arguments, *LOOPBACK, "--no-mdns"])
    assert done.returncode == code
    assert message in done.stderr


def test_a_node_tells_its_figures_to_prometheus(tmp_path: Path) -> None:
    options = ["--weights", WEIGHTS, *LOOPBACK, "--port", "18990", "--no-mdns", "--part", "f", "--name", "attic"]
    started = Program(tmp_path, [*options, "--metrics", "18989"])
    try:
        started.wait_ready()
        told = scrape()
        assert told['swarm_claims{model_name="swarm-demo",state="serving"}'] == 1
        assert told['vllm:kv_cache_usage_perc{engine="0",model_name="swarm-demo"}'] == 0
        for name in ("resent_total", "refused_total", "moves_total", "turns_waited_total", "sessions"):
            assert told[f'swarm_node_{name}{{node="attic"}}'] == 0, name
        taken = run_command("node", tmp_path, [*options[:-1], "kitchen", "--metrics", "127.0.0.1:18989"])
        assert taken.returncode == 2
        assert "metrics cannot be served on 127.0.0.1 port 18989" in taken.stderr
    finally:
        started.stop()


def scrape() -> dict[str, float]:
    """What is told by now: the first beat comes with the first second."""
    lines: list[str] = []

    def has_claims() -> bool:
        with urllib.request.urlopen("http://127.0.0.1:18989/metrics", timeout=10) as answer:
            lines[:] = answer.read().decode().splitlines()
        return any("serving" in line for line in lines)

    wait_until(has_claims, 10, "a beat says what is served")
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_signal_ends_a_node_within_five_seconds(tmp_path: Path) -> None:
    started = Program(
        tmp_path, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18990", "--no-mdns", "--part", "f", "--json"]
    )
    wait_until(lambda: bool(started.lines), 30, "the node is ready")
    assert json.loads(started.lines[0])["event"] == "ready"
    began = time.monotonic()
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(5) == 0
    assert time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("megabytes", "asked", "is_whole"),
    [(300, ["--stream", "never"], False), (200, [], True), (200, ["--part", "f"], True)],
    ids=["kept", "streamed", "told and streamed"],
)
def test_memory_stays_under_the_cap(megabytes: int, asked: list[str], is_whole: bool, tmp_path: Path) -> None:
    """RSS after loading and serving <= RSS before loading + --memory + 100 MB, seen from outside."""
    from swarm.bench.checkpoint import make_checkpoint
    from swarm.bench.shapes import Shape

    make_checkpoint(Shape(layers=12, hidden=1024, heads=16, vocabulary=20000), tmp_path / "weights")
    options = ["--weights", str(tmp_path / "weights"), *LOOPBACK, "--port", "19010", "--no-mdns"]
    started = Program(tmp_path, [*options, "--memory", f"{megabytes}MB", *asked])
    process = psutil.Process(started.process.pid)
    peak = 0

    def is_ready() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return any("ready" in line for line in started.lines)

    try:
        wait_until(is_ready, 60, "the node is ready")
        base = peak_memory("import torch")
        assert peak <= base + megabytes * 1_000_000 + (100 << 20), f"{peak >> 20} MB"
        assert (started.wait_ready()[2] == "b 0-12 e") == is_whole
    finally:
        started.stop()


def test_a_node_that_ends_while_its_threads_stand_in_torch_ends_well() -> None:
    """An interpreter that ends under such a thread aborts, and leaves a core file behind."""
    program = """
import sys, threading, time
import torch
from swarm.cli import node

def load():
    while True:
        torch.ones(1 << 18).to(torch.bfloat16).clone()

def run(command):
    for _ in range(3):
        threading.Thread(target=load, daemon=True).start()
    time.sleep(0.2)
    print("left")
    sys.exit(4)

node.run = run
node.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, "left\n", "")

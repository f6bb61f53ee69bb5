"""`make demo` beside the user's own node: neither is in the other's way, and nobody is invited to join a demo."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.cli import joining
from swarm.discovery.lan import Advert, Lan
from tests.demo_model import ANSWER, LOOPBACK, QUESTION, WEIGHTS
from tests.processes import Node, environment, run_command

pytestmark = pytest.mark.slow


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Node]:
    """The user's node, announced on loopback."""
    node = Node(tmp_path, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18970", "--part", "f", "--device", "cpu"])
    node.wait_ready()
    yield node
    node.stop()


def test_a_demo_runs_beside_a_node_of_another_swarm(own: Node, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swarm.demo", "--model", "toy", QUESTION],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr
    assert own.process.poll() is None


def test_a_demos_nodes_are_no_swarm_to_join_nor_the_secrets_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lan = Lan(["127.0.0.1"])
    try:
        advert = Advert(node="d" * 16, name="demo-1", addresses=("127.0.0.1:1",), tag="d" * 8, is_demo=True)
        lan._announce(advert)
        monkeypatch.setattr(joining, "BROWSE_SECONDS", 1.5)
        assert joining.browse(["127.0.0.1"]) == set()
        (tmp_path / "config" / "swarm").mkdir(parents=True)
        (tmp_path / "config" / "swarm" / "secret").write_text("swarm1-" + "0" * 64)
        done = run_command("chat", tmp_path, [*LOOPBACK, "hello"])
        assert "no peers seen" in done.stderr
        lan._announce(Advert(node="e" * 16, name="other", addresses=("127.0.0.1:1",), tag="e" * 8))
        assert joining.browse(["127.0.0.1"]) == {"other"}
    finally:
        lan.close()


def test_after_ones_own_nodes_died_another_swarm_is_not_said_to_be_the_secrets_fault(own: Node, tmp_path: Path) -> None:
    """They answered once; now only a stranger's swarm is announced."""
    home = tmp_path / "laptop"
    mine = Node(
        home, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18978", "--part", "f", "--device", "cpu", "--new-swarm"]
    )
    address = mine.wait_ready()[4]
    assert run_command("chat", home, [*LOOPBACK, "--peer", address, QUESTION]).returncode == 0
    mine.kill()
    done = run_command("chat", home, [*LOOPBACK, QUESTION])
    assert done.returncode == 2
    assert "none of your swarm's nodes answers" in done.stderr
    assert "wrong swarm secret" not in done.stderr


def test_a_demo_node_that_fails_shows_why(tmp_path: Path) -> None:
    code = (
        "import swarm.demo.__main__ as demo, sys; from dataclasses import replace; toy = demo.toy; "
        "demo.toy = lambda: replace(toy(), memory='1MB'); sys.exit(demo.main(['--model', 'toy', 'hello']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.search(r"a node did not start:\n(.*\n)*.*is too little for one layer of swarm-demo", done.stderr)

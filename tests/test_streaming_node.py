"""A node that reads layers from disk each time: the same answers, in less memory, and what it says of that."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swarm.decoder.packed_folder import FOLDER
from tests.demo_model import LOOPBACK, WEIGHTS
from tests.processes import Node, chat_json, run_command

QUESTION = "Say the words after: one two three"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / "weights", ignore=shutil.ignore_patterns(FOLDER)))


def ask(folder: Path, weights: Path, port: int, options: list[str]) -> tuple[dict[str, object], list[str]]:
    """A greedy answer of one node, and what it said when it was ready."""
    started = Node(folder, ["--weights", str(weights), *LOOPBACK, "--port", str(port), "--no-mdns", *options])
    try:
        started.wait_ready()
        peer = ["--no-mdns", "--peer", f"127.0.0.1:{port}"]
        answer = chat_json(folder, [QUESTION, *LOOPBACK, *peer, "--temperature", "0", "--max-tokens", "24"])
        status = run_command("status", folder, [*LOOPBACK, *peer, "--json"])
        (claim,) = json.loads(status.stdout)["nodes"][0]["claims"]
        assert (claim["source_rate"] > 0) == (claim["streamed"] > 0)
        assert claim["stall_seconds"] < claim["layer_seconds"] * 6 + 1
        return {"text": answer["text"], "streamed": claim["streamed"]}, started.lines
    finally:
        started.stop()


def test_a_node_answers_the_same_with_layers_from_disk(tmp_path: Path, weights: Path) -> None:
    kept, lines = ask(tmp_path, weights, 19100, ["--part", "f"])
    assert kept["streamed"] == 0
    assert not any("streamed" in line for line in lines)
    streamed, lines = ask(tmp_path, weights, 19110, ["--part", "f", "--stream", "4"])
    assert streamed == {**kept, "streamed": 4}
    assert any("streamed=4" in line for line in lines)
    assert len(list((weights / "packed").iterdir())) == 4


def test_a_node_that_can_no_longer_read_its_layers_ends_and_another_one_answers(tmp_path: Path, weights: Path) -> None:
    """The client has begun to ask the first one, and waits for the second."""
    told = ["--weights", str(weights), *LOOPBACK, "--no-mdns", "--part", "f"]
    first = Node(tmp_path, [*told, "--port", "19120", "--stream", "4"])
    second = None
    try:
        first.wait_ready()
        for path in (weights / "packed").iterdir():
            os.truncate(path, 4096)
        peers = ["--no-mdns", "--peer", "127.0.0.1:19120", "--peer", "127.0.0.1:19130"]
        asked = [QUESTION, *LOOPBACK, *peers, "--temperature", "0", "--max-tokens", "24", "--wait", "60"]
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(chat_json, tmp_path, asked)
            assert first.process.wait(30) == 1
            assert any("cannot serve" in line and "is cut short" in line for line in first.errors)
            second = Node(tmp_path, [*told, "--port", "19130", "--stream", "never"])
            text = answer.result(90)["text"]
        assert text == chat_json(tmp_path, asked)["text"]
    finally:
        first.stop()
        if second is not None:
            second.stop()


def test_layers_may_be_packed_before_a_node_needs_them(tmp_path: Path, weights: Path) -> None:
    done = run_command("weights", tmp_path, ["pack", str(weights), "--part", "0-2"])
    assert (done.returncode, done.stdout.split()[1:3]) == (0, ["2", "layers"])
    assert len(list((weights / "packed").iterdir())) == 2
    assert run_command("weights", tmp_path, ["pack", str(weights)]).returncode == 0
    packed = {path: path.stat().st_mtime_ns for path in (weights / "packed").iterdir()}
    assert len(packed) == 6
    ask(tmp_path, weights, 19140, ["--part", "f", "--stream", "5"])
    assert {path: path.stat().st_mtime_ns for path in (weights / "packed").iterdir()} == packed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "f", "--stream", "7"], '--stream 7 is more than the 6 layers of "b 0-6 e" of swarm-demo'),
        (["--part", "f", "--stream", "some"], '--stream "some" is not understood; write auto, never or a number'),
        (["--stream", "3"], "--stream 3 goes with --part"),
        (["--part", "f", "--stream", "never", "--memory", "6MB"], "or a larger --memory"),
        (["--part", "f", "--memory", "6MB"], "with 5 of its layers streamed"),
    ],
)
def test_what_cannot_be_streamed_is_refused(options: list[str], message: str, tmp_path: Path, weights: Path) -> None:
    done = run_command("node", tmp_path, ["--weights", str(weights), *LOOPBACK, "--no-mdns", *options])
    assert done.returncode == 2
    assert message in done.stderr

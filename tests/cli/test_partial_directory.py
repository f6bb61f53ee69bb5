"""README, step 3: each machine has only the files of its part, and its node claims what it has."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from swarm.cli.plans import draw_plans
from swarm.cli.status import draw
from swarm.client.table import describe_plans
from swarm.messages.members import Claim
from tests.beats import make_beat
from tests.demo_model import ANSWER, QUESTION
from tests.processes import DEMO, Node, run_command, stop_all

PARTS = ["b 0-2", "2-4", "4-6 e"]


def copy_part(part: str, directory: Path) -> Path:
    listed = run_command("weights", directory.parent, ["files", part, "--layers", "6"]).stdout.split()
    directory.mkdir()
    for name in [*listed, "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]:
        if (DEMO / name).is_file():
            shutil.copyfile(DEMO / name, directory / name)
    return directory


@pytest.mark.slow
def test_three_nodes_that_each_have_a_third_of_the_files_answer(tmp_path: Path) -> None:
    nodes: list[Node] = []
    common = ["--host", "127.0.0.1", "--port", "18960", "--no-mdns", "--device", "cpu"]
    try:
        for index, part in enumerate(PARTS):
            peers = ["--peer", nodes[0].wait_ready()[4]] if nodes else []
            weights = copy_part(part, tmp_path / f"weights-{index}")
            nodes.append(Node(tmp_path, ["--weights", str(weights), *common, *peers]))
        assert [node.wait_ready()[2] for node in nodes] == PARTS
        reach = ["--host", "127.0.0.1", "--no-mdns", "--peer", nodes[0].wait_ready()[4]]
        answer = run_command("chat", tmp_path, [*reach, QUESTION])
        assert (answer.returncode, answer.stdout) == (0, ANSWER + "\n"), answer.stderr
    finally:
        stop_all(nodes)


def test_a_part_that_is_not_here_is_refused_with_the_files_it_needs(tmp_path: Path) -> None:
    weights = copy_part("b 0-2", tmp_path / "weights")
    done = run_command(
        "node", tmp_path, ["--weights", str(weights), "--host", "127.0.0.1", "--part", "1-4", "--no-mdns"]
    )
    assert done.returncode != 0
    assert done.stderr.startswith("swarm-node: ")
    assert "mid.00002.safetensors mid.00003.safetensors" in done.stderr
    (weights / "mid.00000.safetensors").unlink()
    (weights / "mid.00001.safetensors").unlink()
    (weights / "begin.safetensors").unlink()
    done = run_command("node", tmp_path, ["--weights", str(weights), "--host", "127.0.0.1", "--no-mdns"])
    assert "no file of weights" in done.stderr


def test_the_plan_tells_who_loads_and_how_far_it_is() -> None:
    claim = Claim(model="1" * 32, name="big", layers=8, part="b 0-8 e", state="loading", loaded_bytes=1_500_000_000)
    beat = make_beat("a", claim)
    (plan,) = describe_plans([beat])
    assert plan["loading"] == [
        {
            "name": "a",
            "part": "b 0-8 e",
            "reason": "loading, 1.5 GB so far; answers go on where they are until it serves",
        }
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(draw([beat], 80), *draw_plans([plan]))
    assert "1.5 GB" in " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_two_directories_of_one_model_are_refused(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "again")
    weights = ["--weights", str(DEMO), "--weights", str(tmp_path / "again")]
    done = run_command("node", tmp_path, [*weights, "--host", "127.0.0.1", "--no-mdns"])
    assert done.returncode != 0
    assert "hold the same model" in done.stderr

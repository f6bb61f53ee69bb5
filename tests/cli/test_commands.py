"""What all commands have in common, and those that need no swarm: help, weights, the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.checkpoints import save_checkpoint
from tests.demo_model import ANSWER, QUESTION
from tests.processes import environment, run_command


@pytest.mark.parametrize("name", ["node", "chat", "weights", "status", "bench", "batch", "gateway"])
def test_help_imports_no_torch(name: str, tmp_path: Path) -> None:
    code = f"import sys; sys.argv=['swarm-{name}','--help']; import swarm.cli.{name} as m\n"
    code += "try: m.main()\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'zmq' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: swarm-" in done.stdout


def test_weights_commands(tmp_path: Path) -> None:
    save_checkpoint("40b", tmp_path / "checkpoint")
    directory = str(tmp_path / "weights")
    assert run_command("weights", tmp_path, ["convert", str(tmp_path / "checkpoint"), directory]).returncode == 0
    info = json.loads(run_command("weights", tmp_path, ["info", directory, "--json"]).stdout)
    assert (info["layers"], info["is_complete"], info["name"]) == (4, True, "weights")
    assert run_command("weights", tmp_path, ["verify", directory]).returncode == 0
    path = tmp_path / "weights" / "mid.00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    faulty = run_command("weights", tmp_path, ["verify", directory])
    assert faulty.returncode == 1
    assert "mid.00001.safetensors: sha256" in faulty.stderr
    listed = run_command("weights", tmp_path, ["files", "b 0-2", "--layers", "4"]).stdout.split()
    assert listed == ["sepweight.json", "begin.safetensors", "mid.00000.safetensors", "mid.00001.safetensors"]
    refused = run_command("weights", tmp_path, ["convert", str(tmp_path), directory])
    assert refused.returncode == 1
    assert "config.json is missing" in refused.stderr


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swarm.demo", "--model", "toy", QUESTION],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr
    ids = [line.split("id=")[1].split()[0] for line in done.stderr.splitlines() if "ready" in line]
    assert len(set(ids)) == 3
    assert 'part="b 0-6 e"' not in done.stderr
    mine = os.getpid()
    left = [
        p
        for p in psutil.process_iter(["cmdline"])
        if "swarm-demo-" in " ".join(p.info["cmdline"] or []) and p.pid != mine
    ]
    assert left == []

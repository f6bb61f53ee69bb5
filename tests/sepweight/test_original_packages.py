"""Exchange with the original llm_sepweight, installed for this test alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swarm.falcon.family import FALCON
from swarm.sepweight import load
from swarm.sepweight.convert import convert
from swarm.sepweight.export import export_legacy
from tests.checkpoints import save_checkpoint

PACKAGES = ["llm_sepweight==0.10.0"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the original packages cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return target


def run_theirs(site: Path, code: str, *arguments: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


THEY_LOAD = """
import sys, torch, llm_sepweight
parts = llm_sepweight.load(sys.argv[1], sys.argv[3] if len(sys.argv) > 3 else "f")
torch.save({"begin": parts.begin, "mid": parts.mid, "end": parts.end}, sys.argv[2])
"""
THEY_DUMP = """
import pathlib, sys, llm_sepweight
from safetensors.torch import load_file

def decide(key):  # where their dump wants a Falcon's tensor
    words = key.split(".")
    if words[0] == "lm_head":
        return ["end", key]
    if words[1] == "h":
        return ["mid", words[2], ".".join(words[3:])]
    return ["start" if words[1] == "word_embeddings" else "end", ".".join(words[1:])]

llm_sepweight.dump(decide, load_file(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""


@pytest.mark.parametrize("variant", ["7b", "40b"])
def test_they_load_what_we_export(variant: str, site: Path, tmp_path: Path) -> None:
    save_checkpoint(variant, tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "ours", FALCON)
    export_legacy(tmp_path / "ours", tmp_path / "legacy")
    run_theirs(site, THEY_LOAD, tmp_path / "legacy", tmp_path / "loaded.pt")
    theirs = torch.load(tmp_path / "loaded.pt", weights_only=True)
    ours = load(tmp_path / "ours", "f")
    mid = theirs["mid"] if isinstance(theirs["mid"], list) else list(theirs["mid"].values())
    for key, tensors in (
        ("begin", theirs["begin"]),
        ("end", theirs["end"]),
        *((f"mid.{n:05d}", m) for n, m in enumerate(mid)),
    ):
        assert set(tensors) == set(ours[key])
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ours[key][name]), f"{key}/{name}"


@pytest.mark.parametrize("variant", ["7b", "40b"])
def test_we_convert_what_they_dump(variant: str, site: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(variant, checkpoint)
    shard = checkpoint / "model.safetensors"
    if "lm_head.weight" not in load_file(shard):  # theirs stores a tied head by itself
        from safetensors.torch import save_file

        tensors = load_file(shard)
        tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"].clone()
        save_file(tensors, shard, {"format": "pt"})
    run_theirs(site, THEY_DUMP, shard, tmp_path / "theirs")
    shutil.copy(checkpoint / "config.json", tmp_path / "theirs")
    direct = convert(checkpoint, tmp_path / "direct", FALCON)
    assert convert(tmp_path / "theirs", tmp_path / "back", FALCON).model_id == direct.model_id

"""GGUF files that are damaged, lie, or hold what is not implemented: an error with the values, nothing half-written."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from swarm.checkpoints import open_checkpoint
from swarm.errors import WeightsError
from swarm.sepweight.convert import convert_source
from swarm.sepweight.gguf.file import GgufFile
from tests import checkpoints as falcons
from tests.llama import members
from tests.processes import run_command
from tests.sepweight.ggufs import LLAMA_NAMES, convert, llama_fields, tensors_of, write_gguf


@pytest.fixture
def good(tmp_path: Path) -> Path:
    model = members.make_model("qwen2")
    write_gguf(tmp_path / "good.gguf", "qwen2", llama_fields(model), tensors_of(model, LLAMA_NAMES))
    return tmp_path / "good.gguf"


def head(version: int = 3, tensors: int = 0, fields: int = 0, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no GGUF file"),
        (head(magic=b"GGML"), "is no GGUF file: it begins with b'GGML'"),
        (head(version=1), "has GGUF version 1; this program reads 2 and 3"),
        (head(tensors=1_000_000), "says it has 1,000,000 tensors"),
        (head(fields=1 << 40), "the limit of either is 65,536"),
        (head(fields=1) + struct.pack("<Q", 1 << 30) + b"x", "a string of 1,073,741,824 bytes"),
        (head(fields=1) + struct.pack("<Q", 1000) + b"x", "has been cut short"),
        (head(fields=1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 0, 1 << 40), "an array of 1,099,511,627,776 values"),
        (head(fields=1) + struct.pack("<Q1sI", 1, b"k", 77), "is a damaged GGUF file"),
        (head(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 8, 99, 0), "t is of type number 99"),
        (head(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 16, 0), "t is of type IQ2_XXS"),
        (head(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 33, 8, 0), "rows of 33 numbers cannot be Q8_0"),
        (head(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 1 << 40, 0, 0), "t has shape"),
        (head(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 1 << 20, 0, 0), "t ends at 4,194"),
    ],
)
def test_what_is_damaged_or_hostile_is_refused_with_the_values(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        GgufFile(path)


def test_a_file_cut_anywhere_is_refused(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    for length in [*range(0, 2000, 97), len(data) // 2, len(data) - 64]:
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(WeightsError):
            convert(tmp_path / "cut.gguf", tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("mamba", {}, 'architecture "mamba" are not implemented; known: falcon, llama'),
        ("qwen2", {"expert_count": 8}, "unknown key expert_count"),
        ("qwen2", {"rope.scaling.type": "dynamic"}, 'rope.scaling.type "dynamic" is not implemented'),
        ("qwen2", {"attention.head_count": 0}, "attention.head_count is 0"),
        ("qwen2", {"feed_forward_length": 96}, "has shape .* the config implies"),
        ("qwen2", {"attention.value_length": 3}, "attention.value_length is 3, attention.key_length 8"),
        ("qwen2", {"block_count": 5}, "has no tensor blk.4"),
        ("qwen2", {"attention.head_count_kv": [1, 2]}, "must be a whole number"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    architecture: str, change: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    model = members.make_model("qwen2")
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture, {**llama_fields(model), **change}, tensors_of(model, LLAMA_NAMES))
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out" / "sepweight.json").exists()


@pytest.mark.parametrize(
    ("pre", "merges", "message"),
    [
        ("gpt-2", ["a zz"], 'merges has "a zz"'),
        ("never-heard-of", [], '"never-heard-of", which is not implemented; pass --tokenizer DIR'),
    ],
)
def test_a_tokenizer_that_cannot_be_made_says_how_to_give_one(
    pre: str, merges: list[str], message: str, tmp_path: Path
) -> None:
    model = members.make_model("qwen2")
    path = tmp_path / "model.gguf"
    tokens = ["a", "b", "ab"]
    fields = {**llama_fields(model), "tokenizer.ggml.eos_token_id": tokens.index("ab")}
    write_gguf(path, "qwen2", fields, tensors_of(model, LLAMA_NAMES), tokens=tokens, merges=merges, pre=pre)
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "out")
    given = tmp_path / "given"
    given.mkdir()
    (given / "tokenizer.json").write_bytes(
        (Path(falcons.__file__).parents[1] / "swarm/demo/model/tokenizer.json").read_bytes()
    )
    with open_checkpoint(path, given) as opened:
        assert "tokenizer.json" in convert_source(opened.source, tmp_path / "out", opened.family).documents


def test_the_command_says_in_a_line_what_is_wrong(good: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(good.read_bytes()[:5000])
    for source, message in (("cut.gguf", "has been cut short"), ("none.gguf", "No such file")):
        done = run_command("weights", tmp_path, ["convert", str(tmp_path / source), str(tmp_path / "out")])
        assert done.returncode != 0
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    done = run_command("weights", tmp_path, ["convert", str(good), str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr
    assert "tells no tokenizer; swarm-chat cannot talk to the model without one: pass --tokenizer DIR" in done.stderr

"""A GGUF file's own numbers, kept: four bits as they are, more in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from swarm.checkpoints import open_checkpoint
from swarm.loading import init_part
from swarm.sepweight.convert import convert_source
from swarm.sepweight.gguf.blocks import keep_blocks
from swarm.sepweight.gguf.file import TYPES, StoredTensor
from swarm.sepweight.int4 import dequantise
from swarm.sepweight.manifest import Manifest
from tests.llama import members
from tests.sepweight.ggufs import LLAMA_NAMES, llama_fields, tensors_of, write_gguf
from tests.sepweight.test_gguf import WRITABLE, make_blocks

IDS = torch.randint(2, 90, (40,), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_are_what_the_formats_library_says(kind: str) -> None:
    number = GGMLQuantizationType[kind]
    told = np.random.default_rng(0).standard_normal((48, 512), np.float32) * 0.1
    packed = quantize(told, number) if kind in WRITABLE else make_blocks(number, told.shape)
    data = np.ascontiguousarray(packed).view(np.uint8).reshape(48, -1)
    expected = torch.from_numpy(np.ascontiguousarray(dequantize(packed, number)))
    kept = keep_blocks(StoredTensor(Path("nowhere"), "w", kind, (48, 512), 0, data.nbytes), data)
    if kept is None:
        assert kind in ("F32", "F16", "BF16")
        return
    if "int8" in kept:
        back = kept["int8"].float() * kept["scale"][:, None]
        assert ((back - expected).abs() <= kept["scale"][:, None] * 0.5001).all()
        return
    back = dequantise(kept, 32, 512)
    exact = 1e-6 if kind in ("Q4_0", "Q4_1") else 5e-3  # scales of Q4_K become bfloat16
    assert (back - expected).norm() / expected.norm() < exact


def convert(path: Path, directory: Path, **options: Any) -> Manifest:
    with open_checkpoint(path) as opened:
        return convert_source(opened.source, directory, opened.family, **options)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_a_model_keeps_its_blocks_and_its_id(architecture: str, kind: str, tmp_path: Path) -> None:
    """llama's queries and keys lie in another order of rows."""
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    model = members.make_model(architecture, **wide)
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture, llama_fields(model), tensors_of(model, LLAMA_NAMES), matrices=kind)
    plain = convert(path, tmp_path / "plain", dtype="float32")
    kept = convert(path, tmp_path / "kept", dtype="float32", keeps=True)
    assert (kept.scheme, kept.model_id) == ("gguf", plain.model_id)
    numbers = "int8" if kind == "Q8_0" else "int4"
    assert f"self_attn.q_proj.{numbers}" in kept.files["mid.00000"].tensors
    expected, told = init_part(tmp_path / "plain", "f")(IDS), init_part(tmp_path / "kept", "f")(IDS)
    assert (told - expected).norm() / expected.norm() < (0.1 if kind == "Q8_0" else 5e-2)


def test_matrices_of_several_types_make_one_layer(tmp_path: Path) -> None:
    """As files called Q4_K_M have them: some matrices in more bits, beside those that they are joined with."""
    model = members.make_model("qwen3", hidden_size=256, intermediate_size=256, num_hidden_layers=2)
    tensors = tensors_of(model, LLAMA_NAMES)
    more = {"blk.0.attn_v.weight": "Q8_0", "blk.0.ffn_up.weight": "Q4_0", "blk.1.ffn_down.weight": "F16"}
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen3", llama_fields(model), tensors, matrices="Q4_1", others=more)
    convert(path, tmp_path / "plain", dtype="float32")
    kept = convert(path, tmp_path / "kept", dtype="float32", keeps=True)
    told = {name for key in ("mid.00000", "mid.00001") for name in kept.files[key].tensors}
    assert {"self_attn.v_proj.int8", "mlp.up_proj.zero", "mlp.gate_proj.minimum", "mlp.down_proj.weight"} <= told
    expected, given = init_part(tmp_path / "plain", "f")(IDS), init_part(tmp_path / "kept", "f")(IDS)
    assert (given - expected).norm() / expected.norm() < 5e-2

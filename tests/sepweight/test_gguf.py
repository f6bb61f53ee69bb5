"""GGUF files: what is read from them equals the checkpoint that they were written from, or what their library says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize
from torch import Tensor
from transformers import PreTrainedModel

from swarm.decoder.config import Config
from swarm.errors import WeightsError
from swarm.llama.gemma_gguf import read_more
from swarm.loading import init_part
from swarm.sepweight.gguf.file import TYPES, GgufFile
from swarm.sepweight.store import Store
from tests import checkpoints as falcons
from tests.llama import members
from tests.sepweight.ggufs import (
    FALCON_NAMES,
    GEMMA_NAMES,
    LLAMA_NAMES,
    convert,
    interleave,
    llama_fields,
    tensors_of,
    ungroup,
    write_gguf,
)

IDS = torch.tensor([5, 17, 3, 88, 42, 9, 61, 30, 2, 77, 14, 50])
TOLERANCE = 1e-5
# as many as the format's library quantises; of the others random blocks are valid
WRITABLE = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1".split()


def save_llama(model: PreTrainedModel, path: Path, architecture: str, more: Mapping[str, Any] | None = None) -> None:
    tensors = tensors_of(model, LLAMA_NAMES)
    if architecture in ("llama", "granite", "smollm3"):
        heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
        for name in tensors:
            word = name.split(".")[-2]
            if word in heads:
                tensors[name] = interleave(tensors[name], heads[word])
    write_gguf(path, architecture, {**llama_fields(model), **(more or {})}, tensors)


GRANITE = {"embedding_scale": 6.0, "residual_scale": 0.4, "attention.scale": 0.2, "logit_scale": 4.0}


@pytest.mark.parametrize(
    ("member", "architecture", "more"),
    [
        ("llama, biases", "llama", {}),
        ("mistral, no window", "llama", {}),
        ("llama, linear", "llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        ("qwen2", "qwen2", {}),
        ("qwen3", "qwen3", {}),
        (
            "qwen3, yarn, biases",
            "qwen3",
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 64,
                "rope.scaling.yarn_beta_fast": 32.0,
            },
        ),
        ("phi3", "phi3", {}),
        ("phi3, window", "phi3", {"attention.sliding_window": 9}),
        ("granite", "granite", GRANITE),
        ("smollm3", "smollm3", {}),
    ],
)
def test_a_member_computes_as_the_checkpoint_does(
    member: str, architecture: str, more: Mapping[str, Any], tmp_path: Path
) -> None:
    changes = {"no_rope_layer_interval": 4} if architecture == "smollm3" else {}  # as all its files mean it
    model = members.make_model(member, **changes)
    save_llama(model, tmp_path / "model.gguf", architecture, more)
    convert(tmp_path / "model.gguf", tmp_path / "weights")
    with torch.no_grad():
        expected = model(IDS[None]).logits[0]
    assert (init_part(tmp_path / "weights", "f")(IDS) - expected).abs().max() < TOLERANCE


GEMMA2 = {"attention.sliding_window": 9, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0}
GEMMA3 = {
    "attention.sliding_window": 9,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 4.0,
    "attention.sliding_window_pattern": 3,
}


@pytest.mark.parametrize(
    ("member", "architecture", "names", "more", "changes"),
    [
        ("gemma", "gemma", LLAMA_NAMES, {}, {}),
        ("gemma2", "gemma2", GEMMA_NAMES, GEMMA2, {"query_pre_attn_scalar": 16}),
        (
            "gemma3",
            "gemma3",
            GEMMA_NAMES,
            GEMMA3,
            {
                "query_pre_attn_scalar": 16,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            },
        ),
    ],
)
def test_a_gemma_computes_as_the_checkpoint_does(
    member: str,
    architecture: str,
    names: Mapping[str, str],
    more: Mapping[str, Any],
    changes: Mapping[str, Any],
    tmp_path: Path,
) -> None:
    """Its norms are stored with one added."""
    model = members.make_model(member, **changes)
    tensors = {name: one + 1 if "norm" in name else one for name, one in tensors_of(model, names).items()}
    write_gguf(tmp_path / "model.gguf", architecture, {**llama_fields(model), **more}, tensors)
    convert(tmp_path / "model.gguf", tmp_path / "weights")
    with torch.no_grad():
        expected = model(IDS[None]).logits[0]
    assert (init_part(tmp_path / "weights", "f")(IDS) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("architecture", "layers", "hidden", "heads", "scalar"),
    [("gemma2", 42, 3584, 16, 256), ("gemma2", 46, 4608, 32, 144), ("gemma3", 62, 5376, 32, 168)],
)
def test_the_largest_gemmas_scale_scores_by_their_width(
    architecture: str, layers: int, hidden: int, heads: int, scalar: int
) -> None:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "head_dim": 256}
    more = read_more(Config({}), architecture, sizes)
    assert round(more["query_pre_attn_scalar"], 6) == scalar


def test_llama3s_rotation_comes_as_a_tensor(tmp_path: Path) -> None:
    """The file has the factors that the scaling works out to."""
    model = members.make_model("llama, wide heads")
    plain = 1.0 / 10000.0 ** (torch.arange(0, 16, 2).float() / 16)
    factors = plain / model.model.rotary_emb.inv_freq
    assert factors.max() > 2  # else the scaling does nothing to this model
    tensors = tensors_of(model, LLAMA_NAMES)
    for name, heads in (("attn_q", 6), ("attn_k", 2)):
        tensors |= {key: interleave(one, heads) for key, one in tensors.items() if f"{name}.weight" in key}
    write_gguf(tmp_path / "model.gguf", "llama", llama_fields(model), {**tensors, "rope_freqs.weight": factors})
    convert(tmp_path / "model.gguf", tmp_path / "weights")
    with torch.no_grad():
        expected = model(IDS[None]).logits[0]
    assert (init_part(tmp_path / "weights", "f")(IDS) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("variant", ["7b", "40b", "11b"])
def test_a_falcon_computes_as_the_checkpoint_does(variant: str, tmp_path: Path) -> None:
    model = falcons.make_model(variant)
    config = model.config
    kv_heads = config.num_kv_heads if config.new_decoder_architecture else 1
    tensors = tensors_of(model, FALCON_NAMES)
    for name, tensor in tensors.items():
        if "attn_qkv" in name:
            tensors[name] = ungroup(tensor, config.num_attention_heads, kv_heads)
    fields = {
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_hidden_size,
        "context_length": config.max_position_embeddings,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "tensor_data_layout": "jploski",
    }
    write_gguf(tmp_path / "model.gguf", "falcon", fields, tensors)
    convert(tmp_path / "model.gguf", tmp_path / "weights")
    with torch.no_grad():
        expected = model(IDS[None]).logits[0]
    assert (init_part(tmp_path / "weights", "f")(IDS) - expected).abs().max() < TOLERANCE


WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_what_its_library_says(kind: str, tmp_path: Path) -> None:
    """Rows of 256, as wide as the largest blocks."""
    model = members.make_model("qwen3", **WIDE)
    tensors = tensors_of(model, LLAMA_NAMES)
    number = GGMLQuantizationType[kind]
    told = tensors["blk.0.ffn_down.weight"].numpy()
    packed = quantize(told, number) if kind in WRITABLE else make_blocks(number, told.shape)
    expected = torch.from_numpy(np.ascontiguousarray(dequantize(packed, number)))
    writer = GGUFWriter(tmp_path / "model.gguf", "qwen3")
    for name, value in llama_fields(model).items():
        whole = name if name.startswith("tokenizer") else f"qwen3.{name}"
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(whole, value)
    for name, tensor in tensors.items():
        if name == "blk.0.ffn_down.weight":
            writer.add_tensor(name, packed, raw_dtype=number)
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(tmp_path / "model.gguf", tmp_path / "weights", dtype="float32")
    assert torch.equal(Store(tmp_path / "weights").read("mid.00000", "mlp.down_proj.weight"), expected)


def make_blocks(number: GGMLQuantizationType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Random blocks; their scales are finite."""
    random = np.random.default_rng(1)
    while True:
        packed = random.integers(0, 120, quant_shape_to_byte_shape(shape, number), dtype=np.uint8)
        if np.isfinite(dequantize(packed, number)).all():
            return packed


def test_a_model_has_one_id_whatever_it_is_converted_to(tmp_path: Path) -> None:
    model = members.make_model("qwen2", **{**WIDE, "num_key_value_heads": 2})
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2", llama_fields(model), tensors_of(model, LLAMA_NAMES), matrices="Q8_0")
    short, exact = convert(path, tmp_path / "a"), convert(path, tmp_path / "b", dtype="float32")
    assert (short.dtype, exact.dtype) == ("bfloat16", "float32")
    assert short.model_id == exact.model_id


def test_a_split_model_is_one(tmp_path: Path) -> None:
    model = members.make_model("qwen2")
    fields, tensors = llama_fields(model), tensors_of(model, LLAMA_NAMES)
    write_gguf(tmp_path / "whole.gguf", "qwen2", fields, tensors)
    names = list(tensors)
    cut: list[dict[str, Tensor]] = [{name: tensors[name] for name in names[part::3]} for part in range(3)]
    for number, some in enumerate(cut, 1):
        told = {**fields, "split.tensors.count": len(tensors)} if number == 1 else {}
        write_gguf(tmp_path / f"m-{number:05d}-of-00003.gguf", "qwen2", told, some)
    whole = convert(tmp_path / "whole.gguf", tmp_path / "a")
    assert convert(tmp_path / "m-00002-of-00003.gguf", tmp_path / "b").model_id == whole.model_id
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(WeightsError, match=r"one of 3 files; missing: m-00003-of-00003.gguf"):
        GgufFile(tmp_path / "m-00001-of-00003.gguf")

"""GPTQ, AWQ and FP8 checkpoints: kept as they are, made other ones, and refused where they are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from swarm.checkpoints import open_checkpoint
from swarm.decoder.forms import Forms
from swarm.decoder.schemes import quantisation_named
from swarm.errors import WeightsError
from swarm.loading import init_part
from swarm.sepweight.convert import convert_source
from swarm.sepweight.int4 import dequantise, unpack_pairs
from swarm.sepweight.manifest import Manifest
from swarm.sepweight.store import Store
from tests.layouts import maker_of
from tests.sepweight.quantised import awq_tensors, fp8_tensors, gptq_tensors, save_quantised

IDS = torch.randint(2, 90, (40,), generator=torch.Generator().manual_seed(3))
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}


def convert(source: Path, destination: Path, *, zero_plus_one: bool | None = None, **options: Any) -> Manifest:
    with open_checkpoint(source, zero_plus_one=zero_plus_one) as opened:
        return convert_source(opened.source, destination, opened.family, **options)


def logits_of(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return model(IDS[None]).logits[0]


def make(
    layout: str, directory: Path, told: Mapping[str, Any], tensors_of: Callable[[Tensor], Any], **changes: int
) -> PreTrainedModel:
    """A checkpoint, and the model that it stands for."""
    model = maker_of(layout).make_model(layout, **changes)
    save_quantised(model, directory, told, tensors_of)
    return model


WIDE_FALCON = {"hidden_size": 256, "num_attention_heads": 4}
WIDE_LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
LAYOUTS = [("7b", WIDE_FALCON), ("qwen3", WIDE_LLAMA)]


@pytest.mark.parametrize("is_ordered", [False, True], ids=["in order", "by activation"])
@pytest.mark.parametrize("group", [16, 32, 64, -1])
@pytest.mark.parametrize(("layout", "changes"), LAYOUTS, ids=["falcon", "llama"])
def test_four_bits_stay_as_they_are(
    layout: str, changes: dict[str, int], group: int, is_ordered: bool, tmp_path: Path
) -> None:
    """Groups of 16 have no kernels: they become plain. Whole rows repeat their scales."""
    tensors_of = partial(gptq_tensors, bits=4, group=group, is_ordered=is_ordered)
    model = make(layout, tmp_path / "checkpoint", GPTQ, tensors_of, **changes)
    manifest = convert(tmp_path / "checkpoint", tmp_path / "kept", dtype="float32", keeps=True)
    assert (manifest.scheme, manifest.dtype) == ("gptq", "float32")
    expected = logits_of(model)
    told = init_part(tmp_path / "kept", "f")(IDS)
    assert (told - expected).norm() / expected.norm() < (1e-5 if group == 16 else 5e-2)
    plain = convert(tmp_path / "checkpoint", tmp_path / "plain", dtype="float32")
    assert plain.model_id == manifest.model_id
    assert torch.allclose(init_part(tmp_path / "plain", "f")(IDS), expected, atol=1e-4)


@pytest.mark.parametrize("is_ordered", [False, True])
def test_the_numbers_kept_are_those_of_the_checkpoint(is_ordered: bool, tmp_path: Path) -> None:
    made: dict[tuple[int, ...], Tensor] = {}
    scales: dict[tuple[int, ...], Tensor] = {}

    def tensors_of(matrix: Tensor) -> Any:
        tensors, plain = gptq_tensors(matrix, 4, 64, is_ordered=is_ordered)
        made[tuple(matrix.shape)], scales[tuple(matrix.shape)] = plain, tensors["scales"]
        return tensors, plain

    make("7b", tmp_path / "checkpoint", {**GPTQ, "group_size": 64}, tensors_of, **WIDE_FALCON)
    convert(tmp_path / "checkpoint", tmp_path / "kept", keeps=True)
    store = Store(tmp_path / "kept")
    manifest = store.manifest
    assert {one.dtype for one in manifest.files["mid.00003"].tensors.values()} >= {"uint8", "float16", "bfloat16"}
    stem = "mlp.dense_h_to_4h"
    endings = ["int4", "scale", "zero", *(["order"] if is_ordered else [])]
    kept = {ending: store.read("mid.00003", f"{stem}.{ending}") for ending in endings}
    expected = made[1024, 256]
    back = dequantise(kept, 64, 256)
    if is_ordered:
        sorted_back, back = back, torch.empty_like(back)
        back[:, kept["order"]] = sorted_back
    assert (back - expected).abs().max() < 1e-6
    assert torch.equal(kept["scale"], scales[1024, 256].T)
    assert int(unpack_pairs(kept["int4"]).max()) == 15


@pytest.mark.parametrize("less_one", [True, False])
def test_points_of_zero_are_read_as_the_format_says_or_as_told(less_one: bool, tmp_path: Path) -> None:
    told = GPTQ if less_one else {**GPTQ, "checkpoint_format": "gptq_v2"}
    tensors_of = partial(gptq_tensors, bits=4, group=32, stores_less_one=less_one)
    expected = logits_of(make("qwen3", tmp_path / "checkpoint", told, tensors_of, **WIDE_LLAMA))
    for place, zero_plus_one in (("said", None), ("told", less_one), ("wrong", not less_one)):
        convert(tmp_path / "checkpoint", tmp_path / place, dtype="float32", zero_plus_one=zero_plus_one)
        near = torch.allclose(init_part(tmp_path / place, "f")(IDS), expected, atol=1e-4)
        assert near == (place != "wrong")


def test_eight_bits_become_plain_or_int8(tmp_path: Path) -> None:
    model = make(
        "qwen3", tmp_path / "checkpoint", {**GPTQ, "bits": 8}, partial(gptq_tensors, bits=8, group=32), **WIDE_LLAMA
    )
    kept = convert(tmp_path / "checkpoint", tmp_path / "kept", dtype="float32", keeps=True)
    assert kept.scheme == "plain"
    expected = logits_of(model)
    assert torch.allclose(init_part(tmp_path / "kept", "f")(IDS), expected, atol=1e-4)
    made = convert(tmp_path / "checkpoint", tmp_path / "int8", dtype="float32", quantisation=quantisation_named("int8"))
    assert (made.scheme, made.model_id) == ("int8", kept.model_id)
    told = init_part(tmp_path / "int8", "f")(IDS)
    assert (told - expected).norm() / expected.norm() < 0.1


@pytest.mark.parametrize(("layout", "changes"), LAYOUTS, ids=["falcon", "llama"])
def test_awq_stays_as_it_is(layout: str, changes: dict[str, int], tmp_path: Path) -> None:
    told = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    model = make(layout, tmp_path / "checkpoint", told, partial(awq_tensors, group=32), **changes)
    manifest = convert(tmp_path / "checkpoint", tmp_path / "kept", dtype="float32", keeps=True)
    assert manifest.scheme == "awq"
    expected = logits_of(model)
    told_logits = init_part(tmp_path / "kept", "f")(IDS)
    assert (told_logits - expected).norm() / expected.norm() < 5e-2
    convert(tmp_path / "checkpoint", tmp_path / "plain", dtype="float32")
    assert torch.allclose(init_part(tmp_path / "plain", "f")(IDS), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ("tensor", {"quant_method": "fp8", "activation_scheme": "static"}),
        ("row", {"quant_method": "compressed-tensors", "format": "float-quantized"}),
        ("block", {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 24]}),
    ],
)
def test_fp8_becomes_plain(scales: str, told: Mapping[str, Any], tmp_path: Path) -> None:
    model = make("qwen3", tmp_path / "checkpoint", told, partial(fp8_tensors, scales=scales, block=(32, 24)))
    manifest = convert(tmp_path / "checkpoint", tmp_path / "plain", dtype="float32", keeps=True)
    assert manifest.scheme == "plain"
    assert torch.allclose(init_part(tmp_path / "plain", "f")(IDS), logits_of(model), atol=1e-4)


def test_of_older_programs_a_file_of_its_own_tells_how(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "checkpoint", GPTQ, partial(gptq_tensors, bits=4, group=32), **WIDE_LLAMA)
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    told = config.pop("quantization_config")
    path.write_text(json.dumps(config))
    del told["quant_method"]
    (tmp_path / "checkpoint" / "quantize_config.json").write_text(json.dumps(told))
    assert convert(tmp_path / "checkpoint", tmp_path / "kept", keeps=True).scheme == "gptq"


STEM = "model.layers.2.mlp.up_proj"


def _change(tensors: dict[str, Tensor], ending: str, change: Callable[[Tensor], Tensor]) -> None:
    tensors[f"{STEM}.{ending}"] = change(tensors[f"{STEM}.{ending}"]).contiguous()


def _put(value: float, *place: int) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("ending", "change", "pattern"),
    [
        (
            "scales",
            lambda one: one[:, :-8],
            r"scales has shape \[2, 120\]; 4 bits and a qweight of \[8, 128\] imply \[2, 128\]",
        ),
        ("qzeros", lambda one: one[:1], r"qzeros has shape \[1, 16\]; .* imply \[2, 16\]"),
        ("scales", _put(float("nan"), 1, 3), r"the scale at \[1, 3\] is nan; the checkpoint is damaged"),
        ("scales", _put(0.0, 0, 5), r"the scale at \[0, 5\] is 0.0"),
        ("g_idx", _put(7, 4), "g_idx names group 7; there are 2"),
        ("g_idx", _put(-1, 4), "g_idx names group -1; there are 2"),
        ("g_idx", _put(1, 4), "g_idx puts 31 to 33 of 64 columns into each of 2 groups"),
        ("g_idx", lambda one: one[:-1], r"g_idx has shape \[63\]; a qweight of 64 columns needs \[64\]"),
        ("qweight", lambda one: one[:-1], "has shape"),
    ],
)
def test_tensors_that_disagree_are_refused(
    ending: str, change: Callable[[Tensor], Tensor], pattern: str, tmp_path: Path
) -> None:
    make("qwen3", tmp_path / "checkpoint", GPTQ, partial(gptq_tensors, bits=4, group=32), **WIDE_LLAMA)
    path = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    _change(tensors, ending, change)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=pattern):
        convert(tmp_path / "checkpoint", tmp_path / "kept", keeps=True)


@pytest.mark.parametrize(
    ("told", "pattern"),
    [
        ({**GPTQ, "bits": 3}, "GPTQ of 3 bits is not implemented; 4 and 8 are"),
        ({**GPTQ, "checkpoint_format": "marlin"}, 'checkpoint_format "marlin" is none of gptq, gptq_v2'),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, 'AWQ of version "gemv" is not implemented; "gemm" is'),
        ({"quant_method": "awq", "bits": 3}, "AWQ of 3 bits is not implemented"),
        ({"quant_method": "fp8", "weight_block_size": [0, 1]}, "weight_block_size is"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, 'format "e5m2" is not implemented'),
        (
            {"quant_method": "bitsandbytes"},
            'quantised by "bitsandbytes", which is not implemented; GPTQ, AWQ and FP8 are',
        ),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, 'of format "pack-quantized"'),
    ],
)
def test_other_ways_of_quantising_are_refused_by_name(told: Mapping[str, Any], pattern: str, tmp_path: Path) -> None:
    make("qwen3", tmp_path / "checkpoint", told, partial(gptq_tensors, bits=4, group=32), **WIDE_LLAMA)
    with pytest.raises(WeightsError, match=pattern):
        convert(tmp_path / "checkpoint", tmp_path / "kept", keeps=True)


def test_a_wrong_format_field_shows_where_zeros_should_be_in_the_middle(tmp_path: Path) -> None:
    def tensors_of(matrix: Tensor) -> Any:
        tensors, plain = gptq_tensors(matrix, 4, 32)
        return {**tensors, "qzeros": torch.full_like(tensors["qzeros"], -0x77777778)}, plain

    make("qwen3", tmp_path / "checkpoint", {**GPTQ, "sym": True}, tensors_of, **WIDE_LLAMA)
    with pytest.raises(WeightsError, match=r"should be 8, but are read as 9: .* pass --no-gptq-zero-plus-one"):
        convert(tmp_path / "checkpoint", tmp_path / "kept", keeps=True)
    convert(tmp_path / "checkpoint", tmp_path / "kept", keeps=True, zero_plus_one=False)


def test_a_directory_of_kept_matrices_is_what_it_says(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "checkpoint", GPTQ, partial(gptq_tensors, bits=4, group=32), **WIDE_LLAMA)
    manifest = convert(tmp_path / "checkpoint", tmp_path / "kept", keeps=True)
    assert Forms(manifest, "here").variant("bfloat16") == "gptq-bfloat16"
    with pytest.raises(WeightsError, match=r"kept is quantised already \(gptq\); leave --quantize out"):
        Forms(manifest, tmp_path / "kept", quantisation_named("int8"))

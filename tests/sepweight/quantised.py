"""Quantised checkpoints that tests make of tiny models, packed as their formats' own programs do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_words(numbers: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Rows' numbers, 32 / bits to a word along the last dimension: the first (of an order) in the lowest bits."""
    count = 32 // bits
    grouped = numbers.long().unflatten(-1, (-1, count))
    words = torch.zeros(grouped.shape[:-1], dtype=torch.int64)
    for place, index in enumerate(order or range(count)):
        words |= grouped[..., index] << (place * bits)
    return (words - ((words >> 31) << 32)).to(torch.int32)


def gptq_tensors(
    matrix: Tensor, bits: int, group: int, *, is_ordered: bool = False, stores_less_one: bool = True
) -> tuple[dict[str, Tensor], Tensor]:
    """What a GPTQ checkpoint has of a matrix [out, in], and what that stands for. group: -1 for whole rows."""
    columns = matrix.shape[1]
    group = columns if group < 0 else group
    most = 2**bits - 1
    groups = torch.arange(columns) // group
    if is_ordered:
        groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(5))]
    by_group = matrix[:, groups.argsort(stable=True)].unflatten(1, (-1, group))
    least, largest = by_group.amin(2).clamp(max=0), by_group.amax(2).clamp(min=0)
    scale = ((largest - least) / most).clamp_min(1e-6).half()
    zero = (-least / scale.float()).round().clamp(0, most)
    wide_scale, wide_zero = scale.float()[:, groups], zero[:, groups]
    numbers = (matrix / wide_scale + wide_zero).round().clamp(0, most)
    stored_zero = (zero - int(stores_less_one)) % (most + 1)
    tensors = {
        "qweight": pack_words(numbers, bits).T.contiguous(),
        "qzeros": pack_words(stored_zero.T, bits),
        "scales": scale.T.contiguous(),
        "g_idx": groups.int(),
    }
    return tensors, (numbers - wide_zero) * wide_scale


def awq_tensors(matrix: Tensor, group: int) -> tuple[dict[str, Tensor], Tensor]:
    """The same of an AWQ checkpoint."""
    grouped = matrix.unflatten(1, (-1, group))
    least, largest = grouped.amin(2), grouped.amax(2)
    scale = ((largest - least) / 15).half()
    zero = (-least / scale.float()).round().clamp(0, 15)
    wide_scale, wide_zero = (one.repeat_interleave(group, 1) for one in (scale.float(), zero))
    numbers = (matrix / wide_scale + wide_zero).round().clamp(0, 15)
    tensors = {
        "qweight": pack_words(numbers.T, 4, AWQ_ORDER),
        "qzeros": pack_words(zero.T, 4, AWQ_ORDER),
        "scales": scale.T.contiguous(),
    }
    return tensors, (numbers - wide_zero) * wide_scale


def fp8_tensors(matrix: Tensor, scales: str, block: tuple[int, int] | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """The same of an FP8 checkpoint. scales: one of "tensor", "row", "block"."""
    match scales:
        case "tensor":
            scale = matrix.abs().max().reshape(1) / 448
            wide = scale.expand(matrix.shape)
        case "row":
            scale = matrix.abs().amax(1, keepdim=True) / 448
            wide = scale.expand(matrix.shape)
        case _:
            assert block is not None
            down, across = block
            rows, columns = (-(-size // step) for size, step in zip(matrix.shape, block, strict=True))
            scale = torch.rand(rows, columns) * 0.01 + 0.001
            wide = scale.repeat_interleave(down, 0).repeat_interleave(across, 1)[: matrix.shape[0], : matrix.shape[1]]
    numbers = (matrix / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
    name = "weight_scale_inv" if scales == "block" else "weight_scale"
    return {"weight": numbers, name: scale}, numbers.float() * wide


def save_quantised(
    model: PreTrainedModel,
    directory: Path,
    told: Mapping[str, Any],
    tensors_of: Any,
    but: tuple[str, ...] = ("lm_head",),
) -> None:
    """Write a model whose matrices are quantised, and leave in it what those stand for.

    told: its quantization_config. tensors_of: a matrix → what a checkpoint has of it, and what that stands for.
    """
    model.save_pretrained(directory)
    tensors: dict[str, Tensor] = {}
    tied = bool(model.config.tie_word_embeddings)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name not in but:
                made, plain = tensors_of(module.weight.data)
                tensors |= {f"{name}.{ending}": one for ending, one in made.items()}
                module.weight.copy_(plain)
    for name, tensor in model.state_dict().items():
        if (
            f"{name.removesuffix('weight')}qweight" not in tensors
            and name not in tensors
            and not (tied and "lm_head" in name)
        ):
            tensors[name] = tensor.contiguous()
    for path in directory.glob("*.safetensors*"):
        path.unlink()
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": dict(told)}))

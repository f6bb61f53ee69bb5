"""Four-bit numbers as they are stored: two in a byte, the first one in its lower half; a scale for each group of columns.

A number q stands for (q - 8) * scale + middle, for (q - zero) * scale, or for q * scale + minimum: the first is what torch's
kernels read, the second what GPTQ and AWQ checkpoints have, the third what GGUF files have. Columns that are stored in an
order of their own have it beside them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from swarm.sepweight.scheme import INT4_GROUPS

MIDDLE = 8
LARGEST = 15


def quantise_groups(rows: Tensor, group: int) -> dict[str, Tensor]:
    """[rows, columns] → pairs [rows, columns / 2] uint8; scale and middle [rows, groups], bfloat16.

    Between a group's least and largest number. They are rounded before the numbers are, which make up for that.
    """
    columns = rows.shape[1]
    padded = nn.functional.pad(rows.float()[None], (0, -columns % group), mode="replicate")[0]
    grouped = padded.unflatten(1, (-1, group))
    least, most = grouped.aminmax(dim=2, keepdim=True)
    scale = ((most - least) / LARGEST).clamp_min(1e-30).bfloat16()
    middle = (least + MIDDLE * scale.float()).bfloat16()
    numbers = ((grouped - middle.float()) / scale.float()).round_().add_(MIDDLE).clamp_(0, LARGEST)
    pairs = pack_pairs(numbers.flatten(1)[:, : columns + columns % 2].byte())
    return {"int4": pairs, "scale": scale[..., 0], "middle": middle[..., 0]}


def pack_pairs(numbers: Tensor) -> Tensor:
    """[rows, columns] uint8, an even number of columns → [rows, columns / 2]."""
    return numbers[:, ::2] | numbers[:, 1::2] << 4


def unpack_pairs(pairs: Tensor) -> Tensor:
    """The numbers of pack_pairs again."""
    return torch.stack([pairs & LARGEST, pairs >> 4], -1).flatten(1)


def middles(tensors: Mapping[str, Tensor]) -> Tensor:
    """What stands for 8, [rows, groups], in float32 where it follows from what stands for another number."""
    if "middle" in tensors:
        return tensors["middle"]
    if "minimum" in tensors:
        return tensors["minimum"].float() + MIDDLE * tensors["scale"].float()
    return (MIDDLE - tensors["zero"].float()) * tensors["scale"].float()


def dequantise(tensors: Mapping[str, Tensor], group: int, columns: int) -> Tensor:
    """[rows, columns] float32: the numbers that a stored matrix stands for, columns as they are stored."""
    numbers = unpack_pairs(tensors["int4"]).float() - MIDDLE
    numbers = nn.functional.pad(numbers, (0, tensors["scale"].shape[1] * group - numbers.shape[1]))
    grouped = numbers.unflatten(1, (-1, group))
    grouped.mul_(tensors["scale"].float().unsqueeze(-1)).add_(middles(tensors).float().unsqueeze(-1))
    return grouped.flatten(1)[:, :columns]


def kernel_group(group: int) -> int | None:
    """The largest group that kernels take and that divides a group of other columns; None without one."""
    return max((one for one in INT4_GROUPS if group % one == 0), default=None)

"""Blocks of GGUF files as a sepweight directory has their numbers: four bits as they are, more than four in int8.

Q4_0 has blocks of 32 with a scale, Q4_1 a minimum besides; Q4_K has eight of those in one, whose scales and minima are whole
numbers of six bits (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the layouts are ggml's).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swarm.sepweight.gguf.file import StoredTensor
from swarm.sepweight.int4 import MIDDLE, pack_pairs
from swarm.sepweight.int8 import quantise_rows

PIECE_ROWS = 1024  # are decoded at a time, where there is no form for their numbers
Bytes = NDArray[np.uint8]
GROUP = 32
SUPER = 256


def keep_blocks(stored: StoredTensor, data: Bytes) -> Mapping[str, Tensor] | None:
    """What stands for a matrix. data: its rows, [rows, bytes]. None for one that is stored plain."""
    rows = len(data)
    match stored.type:
        case "Q4_0":
            blocks = data.reshape(rows, -1, 18)
            scale = _halves(blocks[..., :2])
            return {
                "int4": _pairs(blocks[..., 2:]),
                "scale": scale,
                "zero": torch.full(scale.shape, MIDDLE, dtype=torch.uint8),
            }
        case "Q4_1":
            blocks = data.reshape(rows, -1, 20)
            return {
                "int4": _pairs(blocks[..., 4:]),
                "scale": _halves(blocks[..., :2]),
                "minimum": _halves(blocks[..., 2:4]),
            }
        case "Q4_K":
            return _keep_super_blocks(data.reshape(rows, -1, 144))
        case "F32" | "F16" | "BF16":
            return None
        case _:
            pieces = [
                quantise_rows(
                    torch.from_numpy(stored.decode(data[first : first + PIECE_ROWS])).reshape(-1, stored.shape[1])
                )
                for first in range(0, rows, PIECE_ROWS)
            ]
            return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _keep_super_blocks(blocks: Bytes) -> Mapping[str, Tensor]:
    """Of Q4_K: [rows, blocks, 144] bytes. Scales and middles become bfloat16, which is what kernels read."""
    rows = len(blocks)
    factors, least = _halves(blocks[..., :2]).float()[..., None], _halves(blocks[..., 2:4]).float()[..., None]
    packed = torch.from_numpy(np.ascontiguousarray(blocks[..., 4:16])).int()  # six bits each: 8 scales, 8 minima
    low, high, rest = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat([low & 63, (rest & 15) | (low >> 6 << 4)], -1)
    minima = torch.cat([high & 63, (rest >> 4) | (high >> 6 << 4)], -1)
    scale = factors * scales
    middle = MIDDLE * scale - least * minima
    # 32 bytes hold two groups: one in their lower halves, the next in their upper ones.
    numbers = torch.from_numpy(np.ascontiguousarray(blocks[..., 16:])).unflatten(-1, (4, GROUP))
    both = torch.stack([numbers & 15, numbers >> 4], -2)
    return {
        "int4": pack_pairs(both.reshape(rows, -1)),
        "scale": scale.bfloat16().reshape(rows, -1),
        "middle": middle.bfloat16().reshape(rows, -1),
    }


def _halves(data: Bytes) -> Tensor:
    """[..., 2] bytes → float16 [...]."""
    return torch.from_numpy(np.ascontiguousarray(data)).view(torch.float16)[..., 0]


def _pairs(data: Bytes) -> Tensor:
    """[rows, blocks, 16] bytes, the first 16 numbers of a block in their lower halves → pairs as they are stored here."""
    packed = torch.from_numpy(np.ascontiguousarray(data))
    return pack_pairs(torch.cat([packed & 15, packed >> 4], -1).flatten(1))

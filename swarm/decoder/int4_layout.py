"""int4 matrices in the order in which torch's kernels for four bits read them.

torch lays them out from numbers that are 32 bits wide: 17 ms for 8192x2048, five times as long as it takes to move the
stored pairs to where they belong. Where that is differs between processors: it is found out by comparing with what torch
makes of a small matrix, and where none of the known layouts is torch's, torch lays out.
"""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import Tensor, nn

from swarm.decoder.int4 import ROWS_BLOCK, rows_at_a_time
from swarm.sepweight.int4 import LARGEST, unpack_pairs

BLOCKS = (64, 32)  # rows whose numbers lie together, on processors with AVX-512 and with AVX2
TRIED_COLUMNS = 64


def lay_out(pairs: Tensor, columns: int) -> Tensor:
    """[rows, stored columns / 2] uint8 → [padded rows, columns / 2]; rows and columns that are padded have zeros."""
    missing = columns // 2 - pairs.shape[1]
    stored = nn.functional.pad(pairs, (0, missing)) if missing else pairs
    block = _find_block()
    known = len(stored) // block * block if block else 0
    rows = rows_at_a_time(columns)
    laid_out = [_lay_out_blocks(some, block) for some in stored[:known].split(rows) if len(some)]
    laid_out += [_lay_out_by_torch(some) for some in stored[known:].split(rows) if len(some)]
    return torch.cat(laid_out)


def _lay_out_blocks(pairs: Tensor, block: int) -> Tensor:
    """A number of the first half of a block's rows shares its byte with that of the same column and the other half."""
    halves = pairs.view(len(pairs) // block, 2, block // 2, pairs.shape[1])
    first, second = halves[:, 0], halves[:, 1]
    laid_out = pairs.new_empty(len(halves), pairs.shape[1], 2, block // 2)
    laid_out[:, :, 0] = (first & LARGEST | second << 4).transpose(1, 2)
    laid_out[:, :, 1] = (first >> 4 | second & LARGEST << 4).transpose(1, 2)
    return laid_out.view(pairs.shape)


def _lay_out_by_torch(pairs: Tensor) -> Tensor:
    numbers = unpack_pairs(pairs).to(torch.int32)
    padded = nn.functional.pad(numbers, (0, 0, 0, -len(pairs) % ROWS_BLOCK))
    return cast(Tensor, torch.ops.aten._convert_weight_to_int4pack_for_cpu(padded, 1))


@functools.cache
def _find_block() -> int:
    """Of the layout that torch makes on this processor; 0 if it is another one."""
    rows = 2 * max(BLOCKS)
    pairs = torch.randint(
        256, (rows, TRIED_COLUMNS // 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = _lay_out_by_torch(pairs)
    return next((block for block in BLOCKS if torch.equal(_lay_out_blocks(pairs, block), expected)), 0)

"""int8 matrices in the order in which oneDNN's kernels read them.

oneDNN reorders bytes by its general code: 42 ms for 8192x2048, where the same matrix in bfloat16 takes 14. What that makes
on processors with AVX-512 is known here and made in 4 ms. It is never assumed: the first matrix of each shape is reordered
by oneDNN, and others by this only if this gives that one the same bytes.
"""

from __future__ import annotations

from typing import cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from swarm.decoder.opaque import has_memory, memory_of, size_of
from swarm.sepweight.int8 import LARGEST

BLOCK = 64  # rows and columns of a block; of those, 4 columns of a row lie together
TOGETHER = 4
WORD = torch.int32  # of so many columns
EXACT_SUMS = 1 << 24  # whole numbers below are exact in float32
# Activations cross as unsigned bytes around this one: with signed ones a CPU without AMX runs oneDNN's reference code,
# a thousand times slower.
ZERO_POINT = 128

_reordered: WeakValueDictionary[tuple[int, ...], Tensor] = WeakValueDictionary()  # by shape: one whose bytes are known


def reorder(matrix: Tensor) -> Tensor:
    """[out, in] int8 → the same for `multiply`."""
    like = _reordered.get(tuple(matrix.shape))
    if like is not None:
        return _reorder_like(like, matrix)
    reordered = cast(Tensor, torch.ops.onednn.qlinear_prepack(matrix, None))
    if _has_blocks(matrix, reordered):
        again = _reorder_like(reordered, matrix)
        if torch.equal(memory_of(again), memory_of(reordered)):
            _reordered[tuple(matrix.shape)] = reordered
    return reordered


def multiply(x: Tensor, reordered: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """x: [rows, in] uint8 around ZERO_POINT → [rows, out] float32. scales: float32, zeros: int32 and all 0, of each out."""
    y = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, ZERO_POINT, reordered, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return cast(Tensor, y)


def _has_blocks(matrix: Tensor, reordered: Tensor) -> bool:
    """Whether it may be what `_reorder_like` makes: whole blocks, and behind them a number for each row."""
    rows, columns = matrix.shape
    return (
        rows % BLOCK == 0
        and columns % BLOCK == 0
        and columns * LARGEST < EXACT_SUMS
        and has_memory()
        and size_of(reordered) == matrix.numel() + rows * WORD.itemsize
    )


def _reorder_like(like: Tensor, matrix: Tensor) -> Tensor:
    """like: another one of the same shape, reordered; only where things lie is taken from it."""
    reordered = like.clone()
    memory, words = memory_of(reordered), matrix.view(WORD)
    rows, columns = words.shape
    by_block = words.view(rows // BLOCK, BLOCK, columns * TOGETHER // BLOCK, BLOCK // TOGETHER)
    numbers = memory[: matrix.numel()].view(WORD)
    numbers.view(by_block.shape[0], by_block.shape[2], by_block.shape[3], BLOCK).copy_(by_block.permute(0, 2, 3, 1))
    # Behind them, what ZERO_POINT takes from a product: minus the sum of each row, which a product with ones tells.
    taken = memory[matrix.numel() :].view(WORD)
    taken.zero_()
    ones = torch.ones(1, matrix.shape[1], dtype=torch.uint8)
    taken.copy_(multiply(ones, reordered, torch.ones(rows), torch.zeros(rows, dtype=WORD))[0].neg_())
    return reordered

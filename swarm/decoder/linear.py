"""Matrix products, a class for each form of a matrix: plain, or reordered once for the CPU's matrix kernels.

Reordered weights are faster at every batch size measured (bf16, one token: 54.8 against 32 GB/s for the head, 100 against
40 GB/s for a layer) and, with at least two rows, give each row the same bits whatever other rows are there. With AMX tiles
that holds up to 32 rows (28 shapes of matrices, 2 to 32 rows, one core and two); from 33 on the sums over a row are cut
elsewhere for each number of rows. Products of more rows are made 32 at a time there, for at most twice the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from swarm.decoder.block import Block
from swarm.decoder.device import LEAST_ROWS, Device
from swarm.decoder.processor import has_tiles

# The hint is the number of rows that the layout is chosen for: 128 was as fast at one row as a hint of 1, and in
# float32 faster (1.04 against 1.33 ms for 8192x2048).
REORDER_ROWS = 128
TILED_ROWS = 32  # at most, of a product made with AMX tiles


class Linear(Block):
    """y = x W^T + b on [tokens, in] → [tokens, out]."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def sums(self, x: Tensor) -> Tensor:
        """The same in float32 where the product is at hand so, not rounded to the type of x."""
        return self(x)


class PlainLinear(Linear):
    """A matrix as it is. weight: [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class BesideLinear(Linear):
    """Several products of the same x, behind one another: of matrices that are not stored alike."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(linears)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x) for linear in self.linears], 1)

    def sums(self, x: Tensor) -> Tensor:
        return torch.cat([cast(Linear, linear).sums(x) for linear in self.linears], 1)


class ReorderedLinear(Linear):
    """A matrix in the order in which the CPU's kernels read it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight: [out, in], plain; not kept. Raises RuntimeError for want of memory."""
        super().__init__()
        self.reordered = cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight, REORDER_ROWS))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._out = weight.shape[0]
        self._is_tiled = weight.dtype is not torch.float32 and has_tiles()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows < LEAST_ROWS:
            return self._product(torch.cat([x] * -(-LEAST_ROWS // rows)))[:rows]  # one kernel, where zeros take four
        if self._is_tiled and rows > TILED_ROWS:
            y = x.new_empty((rows, self._out))
            for some, given in zip(y.split(TILED_ROWS), x.split(TILED_ROWS), strict=True):
                some.copy_(self(given))
            return y
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.reordered, self.bias, "none", [], ""))


def plain_linear(weight: Tensor, bias: Tensor | None, device: Device) -> Linear:
    """What multiplies with a plain matrix [out, in] on its device: reordered where that has kernels for it, in its dtype."""
    if device.has_reordered and has_kernels(weight.dtype):
        return ReorderedLinear(weight, bias)
    return PlainLinear(weight, bias)


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies reordered weights of a type: for bfloat16 it takes AVX-512."""
    match dtype:
        case torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
        case _:
            return True

"""Products with 16-bit matrices where a processor has no instructions for them: by FBGEMM's kernels for float16.

Torch's general code takes five times as long for sixteen rows. A bfloat16 number times a power of two is a float16 number,
unless it is less than 2^-31 of the matrix' largest: what is lost of such a one is less than what the sum of a few products
rounds away. Sums are made in float32, as everywhere.

A row has the same bits in any company: blocks of three to six rows add their products in one order, blocks of one and two
in another, and none of those is left of a multiple of three (1 to 1,100 rows, one core and two). What is packed cannot
be looked into, nor made of bytes that lie somewhere: layers that come from disk are computed with torch's general code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from swarm.decoder.device import LEAST_ROWS, Device
from swarm.decoder.half import PIECE_NUMBERS, PIECES_AT_ONCE, ROW_BLOCK, may_be_half
from swarm.decoder.kernels import TRIED_COLUMNS, TRIED_ROWS, is_worth_it
from swarm.decoder.linear import Linear, PlainLinear, has_kernels

ROWS = 3  # that a product has a multiple of
LARGEST_EXPONENT = 15  # float16 ends at 65,504
MOST_EXPONENT = 100  # float32 ends at 2^128


class HalfLinear(Linear):
    """A matrix as FBGEMM reads it, in pieces of some rows each."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight: [out, in], not kept."""
        super().__init__()
        self._rows, columns = weight.shape
        low, high = torch.aminmax(weight)
        exponent = min(MOST_EXPONENT, LARGEST_EXPONENT - math.frexp(max(-low.item(), high.item()))[1])
        self._shrink = torch.tensor([2.0**-exponent])  # for activations: the matrix is multiplied with the inverse
        step = max(ROW_BLOCK, PIECE_NUMBERS // columns // ROW_BLOCK * ROW_BLOCK)
        pieces = weight.split(step)
        biases = [None] * len(pieces) if bias is None else bias.float().split(step)
        self._multiply = cast(Callable[[Tensor, Any], Tensor], torch.ops.quantized.linear_dynamic_fp16.default)
        self._packed: list[Any] = []
        with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:  # a core takes 15 ns a number
            for few in (slice(at, at + PIECES_AT_ONCE) for at in range(0, len(pieces), PIECES_AT_ONCE)):
                wide = [piece.float().mul_(2.0**exponent) for piece in pieces[few]]
                self._packed += pool.map(torch.ops.quantized.linear_prepack_fp16, wide, biases[few])

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        lacking = -rows % ROWS
        wide = (torch.cat([x, *[x[:1]] * lacking]) if lacking else x) * self._shrink
        if len(self._packed) == 1:
            return self._multiply(wide, self._packed[0])[:rows].to(x.dtype)
        y, start = x.new_empty((rows, self._rows)), 0
        for packed in self._packed:
            some = self._multiply(wide, packed)[:rows]
            y[:, start : start + some.shape[1]] = some
            start += some.shape[1]
        return y


def make_resident(linear: Linear, device: Device) -> Linear:
    """What multiplies with a matrix that stays where it is. linear: what does so wherever its numbers lie."""
    return HalfLinear(linear.weight.data, linear.bias) if is_faster_resident(linear, device) else linear


def is_faster_resident(linear: nn.Module, device: Device) -> TypeGuard[PlainLinear]:
    """Whether a matrix that stays where it is is computed with otherwise; it rounds otherwise then, too."""
    if not isinstance(linear, PlainLinear):
        return False
    rows, columns = linear.weight.shape
    item, dtype = linear.weight.itemsize, linear.weight.dtype
    return may_be_half((rows, columns), item, device) and not has_kernels(dtype) and _has_half_kernels(dtype)


def can_move(module: nn.Module) -> bool:
    """Whether a module's numbers may lie elsewhere."""
    return not any(isinstance(one, HalfLinear) for one in module.modules())


@functools.cache
def _has_half_kernels(dtype: torch.dtype) -> bool:
    """Whether torch has FBGEMM's kernels, and they are right and fast on this machine."""
    plain = PlainLinear(torch.ones(TRIED_ROWS, TRIED_COLUMNS, dtype=dtype))
    x = torch.ones(LEAST_ROWS, TRIED_COLUMNS, dtype=dtype)
    try:
        half = HalfLinear(plain.weight.data)
        return torch.equal(half(x), plain(x)) and is_worth_it(lambda: half(x), lambda: plain(x))
    except (AttributeError, RuntimeError):
        return False

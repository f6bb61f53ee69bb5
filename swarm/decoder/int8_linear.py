"""Products with int8 matrices: on a CPU by oneDNN's kernels for bytes, elsewhere with the numbers made plain again.

The CPU's kernels give a row the same bits in any company (1 to 300 rows, one core to four). They multiply bytes: activations
are quantised, too, a row by its largest number, in one byte or in two.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from swarm.decoder.device import LEAST_ROWS, Device
from swarm.decoder.kernels import TRIED_COLUMNS, TRIED_ROWS, is_worth_it
from swarm.decoder.linear import Linear
from swarm.decoder.unpacked import UnpackedLinear
from swarm.sepweight.int8 import LARGEST

# Activations cross as unsigned bytes around this one: with signed ones a CPU without AMX runs oneDNN's reference code,
# a thousand times slower.
ZERO_POINT = 128
# A row whose largest number is more than so many times its root mean square keeps too little of the others in one byte
# (SmolLM2's have 6 to 16 times that: perplexity +3.9% with one byte, +0.4% with two, +0.3% with plain activations).
WIDE = 7.0
FINER = 2 * LARGEST  # what a second byte divides a step of the first one into
ROUNDED_ROWS = 16  # second rows come in multiples of so many: a product makes its code for each number of rows


def make_linear(tensors: Mapping[str, Tensor], bias: Tensor | None, device: Device) -> Linear:
    """What multiplies with a matrix on a device. tensors: as stored."""
    matrix, scales = device.place([tensors["int8"], tensors["scale"]])
    if device.is_host and _is_packed_fast(max(matrix.shape[1], TRIED_COLUMNS)):
        return PackedInt8Linear(matrix, scales, bias)
    return UnpackedInt8Linear(matrix, scales, bias)


class PackedInt8Linear(Linear):
    """A matrix in the order in which the CPU's kernels read it. matrix: [out, in] int8; scales: [out] float32."""

    def __init__(self, matrix: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = cast(Tensor, torch.ops.onednn.qlinear_prepack(matrix, None))
        self.scales, self.bias = scales, bias
        self._zeros = torch.zeros(len(scales), dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        given = split_rows(x)
        both = self._product(given.rows)
        y, finer = both[: len(x)], both[len(x) :].mul_(1 / FINER)
        if given.finer is not None:
            y.index_add_(0, given.finer, finer[: len(given.finer)])
        elif len(finer):
            y.add_(finer)
        y = y.mul_(given.steps).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def _product(self, rows: Tensor) -> Tensor:
        """[rows, in] bytes → [rows, out] float32."""
        y = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, ZERO_POINT, self.packed, self.scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return cast(Tensor, y)


class UnpackedInt8Linear(UnpackedLinear):
    """A matrix as it is stored, on the device."""

    def __init__(self, matrix: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.matrix, self.scales, self.bias = matrix, scales.unsqueeze(1), bias
        self.rows = len(matrix)

    def plain(self, first: int, stop: int, x: Tensor) -> Tensor:
        return (self.matrix[first:stop] * self.scales[first:stop]).to(x.dtype)


@dataclass(frozen=True, slots=True)
class QuantisedRows:
    """Activations in bytes.

    rows: [rows + finer ones, in] uint8 around ZERO_POINT. steps: what one of a row's numbers stands for, [rows, 1] float32.
    finer: which rows have a second one behind all the first ones; None: each, or none.
    """

    rows: Tensor
    steps: Tensor
    finer: Tensor | None = None


def split_rows(x: Tensor) -> QuantisedRows:
    """[rows, in] → bytes. A row that takes two has in the second what the first one leaves, FINER times as fine.

    One that takes one has zeros for a second one, so that its sums are the same where there is a place for one. A row that
    is not finite has a step that is not; one of zeros has any bytes, which stand for zeros.
    """
    wide = x.float()
    steps = wide.abs().amax(1, keepdim=True).div_(LARGEST)
    exact = wide / steps
    whole = exact.round()
    # Of whole numbers, in float64: the sum of their squares has no rounding that the order of summands could change.
    size = torch.linalg.vector_norm(whole, dim=1, keepdim=True, dtype=torch.float64)
    takes_two = size < LARGEST / WIDE * x.shape[1] ** 0.5
    if not takes_two.any():
        return QuantisedRows(_bytes(whole), steps)
    left = exact.sub_(whole).mul_(takes_two * FINER).round_()
    finer = takes_two[:, 0].nonzero()[:, 0]
    places = -(-len(finer) // ROUNDED_ROWS) * ROUNDED_ROWS
    if 2 * places > len(x):
        return QuantisedRows(_bytes(torch.cat([whole, left])), steps)
    return QuantisedRows(
        _bytes(torch.cat([whole, left[finer], left.new_zeros(places - len(finer), x.shape[1])])), steps, finer
    )


def _bytes(numbers: Tensor) -> Tensor:
    return numbers.add_(ZERO_POINT).to(torch.uint8)


@functools.cache
def _is_packed_fast(columns: int) -> bool:
    """Whether oneDNN has kernels for bytes on this machine, and no code that stands in for them."""
    matrix, scales = torch.ones(TRIED_ROWS, columns, dtype=torch.int8), torch.ones(TRIED_ROWS)
    x = torch.ones(LEAST_ROWS, columns)
    packed, unpacked = PackedInt8Linear(matrix, scales), UnpackedInt8Linear(matrix, scales)
    return is_worth_it(lambda: packed(x), lambda: unpacked(x))

"""Products with int8 matrices: on a CPU by oneDNN's kernels for bytes, elsewhere with the numbers made plain again.

The CPU's kernels give a row the same bits in any company (1 to 300 rows, one core to four). They multiply bytes: activations
are quantised, too, a row by its largest number, in one byte or in two. Where a CPU has none that are right, torch's kernel
for bytes and bfloat16 activations is next.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.decoder.device import LEAST_ROWS, Cpu, Device
from swarm.decoder.int8_layout import ZERO_POINT, multiply, reorder
from swarm.decoder.kernels import TRIED_COLUMNS, TRIED_ROWS, is_worth_it
from swarm.decoder.linear import Linear
from swarm.decoder.unpacked import UnpackedLinear
from swarm.sepweight.int8 import LARGEST

# A row whose largest number is more than so many times its root mean square keeps too little of the others in one byte
# (SmolLM2's have 6 to 16 times that: perplexity +3.9% with one byte, +0.4% with two, +0.3% with plain activations).
WIDE = 7.0
FINER = 2 * LARGEST  # what a second byte divides a step of the first one into
KERNEL_BLOCK = 64  # rows and columns that torch's kernel wants multiples of: with others it reads beyond the matrix
ROUNDED_ROWS = 16  # second rows come in multiples of so many: a product makes its code for each number of rows


def make_linear(tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype, device: Device) -> Linear:
    """What multiplies with a matrix on a device. tensors: as stored."""
    matrix, scales = device.place([tensors["int8"], tensors["scale"]])
    if device.is_host:
        columns = max(matrix.shape[1], TRIED_COLUMNS)
        if _has_kernels(columns):
            return PackedInt8Linear(matrix, scales, bias)
        if dtype is torch.bfloat16 and not any(size % KERNEL_BLOCK for size in matrix.shape) and _has_widening(columns):
            return WideningInt8Linear(matrix, scales, bias)
    return UnpackedInt8Linear(matrix, scales, bias, device)


class PackedInt8Linear(Linear):
    """A matrix in the order in which the CPU's kernels read it. matrix: [out, in] int8; scales: [out] float32."""

    def __init__(self, matrix: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = reorder(matrix)
        self.scales, self.bias = scales, bias
        self._zeros = torch.zeros(len(scales), dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        given = split_rows(x)
        both = self.product(given.rows)
        y, finer = both[: len(x)], both[len(x) :].mul_(1 / FINER)
        if given.finer is not None:
            y.index_add_(0, given.finer, finer[: len(given.finer)])
        elif len(finer):
            y.add_(finer)
        y = y.mul_(given.steps).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def product(self, rows: Tensor) -> Tensor:
        """[rows, in] bytes around ZERO_POINT → [rows, out] float32."""
        return multiply(rows, self.packed, self.scales, self._zeros)


class WideningInt8Linear(Linear):
    """A matrix as it is stored, for torch's kernel that makes bfloat16 of its numbers while it multiplies."""

    def __init__(self, matrix: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.matrix, self.scales, self.bias = matrix, scales, bias
        self._ones = torch.ones(len(scales), dtype=torch.bfloat16)  # it takes scales in bfloat16 alone

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.aten._weight_int8pack_mm(x, self.matrix, self._ones)
        y = (y * self.scales).to(x.dtype)
        return y if self.bias is None else y + self.bias


class UnpackedInt8Linear(UnpackedLinear):
    """A matrix as it is stored, on the device."""

    def __init__(self, matrix: Tensor, scales: Tensor, bias: Tensor | None, device: Device) -> None:
        super().__init__(device)
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
def _has_kernels(columns: int) -> bool:
    """Whether oneDNN's kernels for bytes are right and fast on this machine.

    Elsewhere other code stands in for them, or two products are added in 16 bits, where the largest do not fit (AVX2 and
    AVX-512 without VNNI).
    """
    matrix, scales = torch.full((TRIED_ROWS, columns), LARGEST, dtype=torch.int8), torch.ones(TRIED_ROWS)
    packed, unpacked = PackedInt8Linear(matrix, scales), UnpackedInt8Linear(matrix, scales, None, Cpu())
    largest = torch.full((LEAST_ROWS, columns), ZERO_POINT + LARGEST, dtype=torch.uint8)
    if not (packed.product(largest) == LARGEST * LARGEST * columns).all():
        return False
    x = torch.ones(LEAST_ROWS, columns)
    return is_worth_it(lambda: packed(x), lambda: unpacked(x))


@functools.cache
def _has_widening(columns: int) -> bool:
    """Whether torch's kernel is worth using on this machine."""
    matrix, scales = torch.ones(TRIED_ROWS, columns, dtype=torch.int8), torch.ones(TRIED_ROWS)
    widening, unpacked = WideningInt8Linear(matrix, scales), UnpackedInt8Linear(matrix, scales, None, Cpu())
    x = torch.ones(LEAST_ROWS, columns, dtype=torch.bfloat16)
    return is_worth_it(lambda: widening(x), lambda: unpacked(x))

"""Products with int8 matrices: on a CPU by oneDNN's kernels for bytes, elsewhere with the numbers made plain again.

The CPU's kernels give a row the same bits in any company (1 to 300 rows, one core to four).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from swarm.decoder.int8 import row_scales
from swarm.decoder.linear import Linear

# Activations cross as unsigned bytes around this one: with signed ones a CPU without AMX runs oneDNN's reference code,
# a thousand times slower.
ZERO_POINT = 128


class HostInt8Linear(Linear):
    """A matrix in the order in which the CPU's kernels read it. matrix: [out, in] int8; scales: [out] float32."""

    def __init__(self, matrix: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = cast(Tensor, torch.ops.onednn.qlinear_prepack(matrix, None))
        self.scales, self.bias = scales, bias
        self._zeros = torch.zeros(len(scales), dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        rows, scales = quantise_rows(x)
        y = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, ZERO_POINT, self.packed, self.scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        y = (cast(Tensor, y) * scales).to(x.dtype)
        return y if self.bias is None else y + self.bias


class CardInt8Linear(Linear):
    """A matrix that is made plain for each product."""

    def __init__(self, matrix: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.matrix, self.scales, self.bias = matrix, scales, bias

    def forward(self, x: Tensor) -> Tensor:
        y = (torch.nn.functional.linear(x, self.matrix.to(x.dtype)).float() * self.scales).to(x.dtype)
        return y if self.bias is None else y + self.bias


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, in] → bytes of the same shape around ZERO_POINT; a scale each, [rows, 1] float32.

    A row that is not finite has a scale that is not.
    """
    wide = x.float()
    scales = row_scales(wide)
    return (wide / scales).round_().add_(ZERO_POINT).to(torch.uint8), scales

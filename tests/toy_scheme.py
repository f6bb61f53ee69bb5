"""A stored form that nobody needs: what a new one takes is this file, and one line in SCHEMES."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swarm.decoder.device import Device
from swarm.decoder.linear import Linear
from swarm.decoder.scheme import MatrixCosts
from swarm.sepweight.manifest import TensorEntry


class RowsLinear(Linear):
    """A matrix whose rows are scaled to a largest number of one, and by how much."""

    def __init__(self, rows: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.rows, self.scales, self.bias = rows, scales, bias

    def forward(self, x: Tensor) -> Tensor:
        product = x @ self.rows.T * self.scales
        return product if self.bias is None else product + self.bias


class RowsScheme:
    """Rows and their scales."""

    name = "rows"
    may_be_joined = True

    def fitting(self, columns: int) -> RowsScheme:
        return self

    def doubt(self, dtype: str) -> str | None:
        return None

    def recognise(self, entries: Mapping[str, TensorEntry], shape: tuple[int, int]) -> RowsScheme | None:
        return self if set(entries) == {"rows", "scales"} else None

    def pack(self, matrix: Tensor) -> Mapping[str, Tensor]:
        scales = matrix.abs().amax(1)
        return {"rows": matrix / scales[:, None], "scales": scales}

    def unpack(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        return tensors["rows"] * tensors["scales"][:, None]

    def costs(self, shape: tuple[int, int], stored: int, item: int, device: Device) -> MatrixCosts:
        return MatrixCosts((shape[0] * shape[1] + shape[0]) * item, 0)

    def make(self, tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype, device: Device) -> Linear:
        rows, scales = device.place([tensors["rows"].to(dtype), tensors["scales"].to(dtype)])
        return RowsLinear(rows, scales, bias)


ROWS = RowsScheme()

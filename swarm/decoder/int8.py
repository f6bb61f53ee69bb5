"""Matrices of whole numbers from -127 to 127 and a scale a row. Activations are quantised, too, with a scale a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swarm.decoder.device import Device
from swarm.decoder.scheme import MatrixCosts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swarm.decoder.linear import Linear

LARGEST = 127
SCALE_BYTES = 4


def row_scales(rows: Tensor) -> Tensor:
    """[rows, columns] float32 → [rows, 1]: what one step of a row's whole numbers stands for."""
    return rows.abs().amax(1, keepdim=True).clamp_min(1e-30) / LARGEST


class Int8Scheme:
    """Symmetric int8, a scale a row: about half of bfloat16's bytes."""

    name = "int8"

    def pack(self, matrix: Tensor) -> Mapping[str, Tensor]:
        rows = matrix.float()
        scales = row_scales(rows)
        return {"int8": (rows / scales).round().char(), "scale": scales[:, 0]}

    def variant(self, dtype: str) -> str:
        return f"{self.name}-{dtype}"

    def costs(self, shape: tuple[int, int], stored: int, item: int, device: Device) -> MatrixCosts:
        """Beside what the CPU's kernels read, a sum and a zero point a row; the numbers as stored while it is made."""
        rows, columns = shape
        return MatrixCosts(rows * (columns + 3 * SCALE_BYTES), rows * columns)

    def make(self, tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype, device: Device) -> Linear:
        from swarm.decoder.int8_linear import CardInt8Linear, HostInt8Linear

        matrix, scales = device.place([tensors["int8"], tensors["scale"]])
        return (HostInt8Linear if device.is_host else CardInt8Linear)(matrix, scales, bias)


INT8 = Int8Scheme()

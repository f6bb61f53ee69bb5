"""Matrices of whole numbers from -127 to 127 and a scale a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swarm.decoder.device import Device
from swarm.decoder.scheme import MatrixCosts, tile_bytes
from swarm.sepweight.manifest import TensorEntry
from swarm.sepweight.scheme import pack_by_rows

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swarm.decoder.linear import Linear

SCALE_BYTES = 4


class Int8Scheme:
    """Symmetric int8, a scale a row: about half of bfloat16's bytes."""

    name = "int8"
    may_be_joined = True

    def fitting(self, columns: int) -> Int8Scheme:
        return self

    def pack(self, matrix: Tensor) -> Mapping[str, Tensor]:
        from swarm.sepweight.int8 import quantise_rows

        return pack_by_rows(matrix, quantise_rows)

    def doubt(self, dtype: str) -> str | None:
        return None

    def recognise(self, entries: Mapping[str, TensorEntry], shape: tuple[int, int]) -> Int8Scheme | None:
        shapes = {name: one.shape for name, one in entries.items()}
        return self if shapes == {"int8": shape, "scale": shape[:1]} else None

    def unpack(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        return tensors["int8"].float() * tensors["scale"][:, None]

    def costs(self, shape: tuple[int, int], stored: int, item: int, device: Device) -> MatrixCosts:
        """Beside what the CPU's kernels read, a sum and a zero point a row; the numbers as stored while it is made."""
        rows, columns = shape
        if not device.is_host:
            return MatrixCosts(rows * (columns + SCALE_BYTES), tile_bytes(shape, item))
        return MatrixCosts(rows * (columns + 3 * SCALE_BYTES), rows * columns)

    def make(self, tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype, device: Device) -> Linear:
        from swarm.decoder.int8_linear import make_linear

        return make_linear(tensors, bias, dtype, device)


INT8 = Int8Scheme()

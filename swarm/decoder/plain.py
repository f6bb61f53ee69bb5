"""Matrices stored as they are: computed with so, or in another order where the device's kernels want it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swarm.decoder.device import Device
from swarm.decoder.half import may_be_half, packed_bytes, packing_bytes
from swarm.decoder.scheme import MatrixCosts
from swarm.sepweight.manifest import PLAIN_NAME, TensorEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swarm.decoder.linear import Linear


class PlainScheme:
    """Matrices as checkpoints have them."""

    name = PLAIN_NAME
    may_be_joined = True

    def fitting(self, columns: int) -> PlainScheme:
        return self

    def pack(self, matrix: Tensor) -> Mapping[str, Tensor]:
        return {"weight": matrix}

    def doubt(self, dtype: str) -> str | None:
        return None

    def recognise(self, entries: Mapping[str, TensorEntry], shape: tuple[int, int]) -> PlainScheme | None:
        return self if {name: one.shape for name, one in entries.items()} == {"weight": shape} else None

    def unpack(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        return tensors["weight"].float()

    def costs(self, shape: tuple[int, int], stored: int, item: int, device: Device) -> MatrixCosts:
        numbers = shape[0] * shape[1]
        making = numbers * (item * device.has_reordered + (stored if stored != item else 0))
        if may_be_half(shape, item, device):
            return MatrixCosts(packed_bytes(shape), making + packing_bytes(shape), moves=False)
        return MatrixCosts(numbers * item, making)

    def make(self, tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype, device: Device) -> Linear:
        from swarm.decoder.linear import plain_linear

        return plain_linear(device.place([tensors["weight"].to(dtype)])[0], bias, device)


PLAIN = PlainScheme()

"""What a stored form of matrices has to say of itself. A form is a room of its own; nothing above knows which one it is.

Imports torch only where it computes: a node reckons with memory while torch is still being imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from swarm.decoder.device import Device
from swarm.sepweight.manifest import TensorEntry
from swarm.sepweight.scheme import StoredScheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swarm.decoder.linear import Linear


TILE_NUMBERS = 4 << 20  # of a matrix that is made plain for each product are plain at a time
TILE_BYTES = 8  # of each of them while they are made, beside the number itself


def tile_bytes(shape: tuple[int, int], item: int) -> int:
    """Bytes that a product takes whose matrix [out, in] is made plain a tile at a time. item: of a plain number."""
    return min(shape[0] * shape[1], max(TILE_NUMBERS, shape[1])) * (item + TILE_BYTES)


@dataclass(frozen=True, slots=True)
class MatrixCosts:
    """Bytes on the device: that a matrix takes, and those that making it, or a product with it, takes besides.

    moves: whether it can become the memory that others are read into.
    """

    resident: int
    making: int
    moves: bool = True


class Scheme(StoredScheme, Protocol):
    """A stored form of matrices, and what computes with it."""

    @property
    def may_be_joined(self) -> bool:
        """Whether matrices in this form are rows of one that is, too."""
        ...

    def fitting(self, columns: int) -> Scheme:
        """The form itself, or the nearest of its kind for a matrix of so many columns."""
        ...

    def doubt(self, dtype: str) -> str | None:
        """What who computes in a dtype should know."""
        ...

    def recognise(self, entries: Mapping[str, TensorEntry], shape: tuple[int, int]) -> Scheme | None:
        """The form itself, or one of its kind, if a matrix [out, in] is stored so. entries: by what names end in."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """The numbers that a stored matrix stands for, [out, columns] float32, in the model's order of columns."""
        ...

    def costs(self, shape: tuple[int, int], stored: int, item: int, device: Device) -> MatrixCosts:
        """Of a matrix [out, in]. stored, item: bytes of a plain number in the file, and of one that is computed with."""
        ...

    def make(self, tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype, device: Device) -> Linear:
        """What multiplies with a matrix. tensors: what stands for it, as stored; bias: on the device, in dtype."""
        ...

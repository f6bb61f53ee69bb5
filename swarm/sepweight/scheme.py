"""How a matrix is stored: as it is, or as other tensors that stand for it.

What a file needs to know of that. What computes with them is known further up (decoder/scheme.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class StoredScheme(Protocol):
    """A stored form of the matrices of layers and of a head of its own; embeddings, norms and biases are stored plain."""

    name: str

    def pack(self, matrix: Tensor) -> Mapping[str, Tensor]:
        """The tensors that stand for a matrix [out, in], by what their names end in instead of `weight`."""
        ...


def pack_file(scheme: StoredScheme | None, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors as a scheme stores them. scheme: None leaves them as they are, and so is the embedding's file."""
    if scheme is None or key == "begin":
        return dict(tensors)
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if is_matrix(name, tuple(tensor.shape)):
            stem = name.removesuffix("weight")
            packed |= {f"{stem}{suffix}": one.contiguous() for suffix, one in scheme.pack(tensor).items()}
        else:
            packed[name] = tensor
    return packed


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) == 2

"""Tensors as they travel: their type, their shape and their bytes."""

from __future__ import annotations

import struct

from msgspec import Struct

from swarm.messages.base import Dtype, Small

ITEM_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1}


class WireTensor(Struct, frozen=True):
    """A dense tensor in row-major order; `data` holds prod(shape) items and is never written again."""

    dtype: Dtype
    shape: tuple[Small, ...]
    data: bytes | memoryview

    def rows(self, start: int, stop: int) -> WireTensor:
        """Rows start..stop as a tensor over the same memory."""
        view = memoryview(self.data)
        row_bytes = len(view) // self.shape[0]
        return WireTensor(self.dtype, (stop - start, *self.shape[1:]), view[start * row_bytes : stop * row_bytes])


def ids_tensor(ids: list[int]) -> WireTensor:
    """Token ids as an int32 tensor [len(ids)]."""
    return WireTensor("int32", (len(ids),), struct.pack(f"<{len(ids)}i", *ids))


def ids_of(tensor: WireTensor) -> list[int]:
    """The token ids of an int32 tensor."""
    return list(struct.unpack(f"<{tensor.shape[0]}i", tensor.data))

"""A layer whose numbers lie in one piece of memory, so that those of another layer can be read over them."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from swarm.decoder.direct import DIRECT_STEP
from swarm.decoder.layer import Layer
from swarm.decoder.opaque import is_opaque, memory_of, view_of
from swarm.errors import RequestError

HUGE_PAGE = 2 << 20
ALIGNMENT = 64  # of each tensor


class LayerBuffer:
    """Memory of a layer. The layer's tensors are views of it; whatever is read into it is the layer from then on.

    form: the same for layers whose bytes may take each other's place.
    """

    def __init__(self, layer: Layer) -> None:
        """Takes over a layer that was made as any other: its numbers move here.

        Raises RequestError if some lie where they cannot be moved from.
        """
        self.layer = layer
        found = list(_tensors_of(layer))
        starts, size = _lay_out(tensor for _, _, tensor in found)
        self.memory = Memory(size)
        layer.__dict__["memory"] = self.memory  # as long as either lives
        self.form = tuple((name, tensor.dtype, tuple(tensor.shape), is_opaque(tensor)) for _, name, tensor in found)
        for (module, name, tensor), start in zip(found, starts, strict=True):
            self._move(module, name, tensor, start)

    def _move(self, module: nn.Module, name: str, tensor: Tensor, start: int) -> None:
        there = _bytes_of(tensor)
        here = torch.frombuffer(self.memory.view, dtype=torch.int8, count=len(there), offset=start)
        here.copy_(there)
        if is_opaque(tensor):
            moved = view_of(self.memory.address + start, tensor)
        else:
            moved = here.view(tensor.dtype).view(tensor.shape)
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=False)
        setattr(module, name, moved)


class Memory:
    """Anonymous memory in huge pages, where there are such; begins with one. Given back as soon as it is not used."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        skipped = -start % HUGE_PAGE
        self.address = start + skipped
        self.view = memoryview(self._map)[skipped : skipped + size]


def _lay_out(tensors: Iterable[Tensor]) -> tuple[list[int], int]:
    """Where each begins, and how long all are together."""
    starts: list[int] = []
    size = 0
    for tensor in tensors:
        starts.append(size)
        size = _up(size + len(_bytes_of(tensor)), ALIGNMENT)
    return starts, _up(size, DIRECT_STEP)


def _tensors_of(layer: Layer) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every tensor that a layer computes with: where it hangs, and the tensor."""
    for module in layer.modules():
        held = {**vars(module), **dict(module.named_parameters(recurse=False))}
        for name, value in sorted(held.items()):
            if isinstance(value, Tensor) and value.numel():
                yield module, name, value


def _bytes_of(tensor: Tensor) -> Tensor:
    """[bytes] int8, in place."""
    if is_opaque(tensor):
        return memory_of(tensor)
    if not tensor.is_contiguous():
        raise RequestError("a layer of tensors that do not lie in one piece cannot be streamed")
    return tensor.detach().view(-1).view(torch.int8)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple

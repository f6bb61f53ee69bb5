"""A layer whose numbers lie in one piece of memory, so that those of another layer can be read over them.

What it consists of lies there in the order in which it computes, and tells when it begins and when it has done: the one may
be still to come, and what the other used is free.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from swarm.decoder.block import Block
from swarm.decoder.crossing import Crossing, Lane
from swarm.decoder.direct import DIRECT_STEP
from swarm.decoder.layer import Layer
from swarm.decoder.opaque import is_opaque, memory_of, view_of
from swarm.errors import RequestError

HUGE_PAGE = 2 << 20
ALIGNMENT = 64  # of each tensor


class Watch(Protocol):
    """Who is told of the sections of a layer that computes."""

    def begin(self, section: int) -> None:
        """It is about to compute."""
        ...

    def end(self, section: int) -> None:
        """It has."""
        ...


class Section(Block):
    """What a layer consists of, a matrix or a norm, by its place in the buffer."""

    def __init__(self, number: int, inner: nn.Module) -> None:
        super().__init__()
        self.number = number
        self.inner = inner
        self.watch: Watch | None = None

    def forward(self, *args: Any) -> Any:
        if self.watch is None:
            return self.inner(*args)
        self.watch.begin(self.number)
        found = self.inner(*args)
        self.watch.end(self.number)
        return found


class LayerBuffer:
    """Memory of a layer. The layer's tensors are views of it; whatever is read into it is the layer from then on.

    memory: of the machine; what is read into it goes on to the card where there is a crossing. form: the same for layers
    whose bytes may take each other's place. bounds: where each section begins, and the last ends.
    """

    def __init__(self, layer: Layer, lane: Lane | None = None) -> None:
        """Takes over a layer that was made as any other: its numbers move here. lane: to the card that it is on.

        Raises RequestError if some lie where they cannot be moved from.
        """
        self.layer = layer
        children = [(name, child, list(_tensors_of(child))) for name, child in layer.named_children()]
        found = [tensor for _, _, tensors in children for tensor in tensors]
        starts, size = _lay_out(tensor for _, _, tensor in found)
        self.memory = Memory(size)
        here = torch.frombuffer(self.memory.view, dtype=torch.int8)
        self._flat = here if lane is None else torch.empty_like(here, device=found[0][2].device)
        layer.__dict__["memory"] = self.memory, self._flat  # as long as either lives
        self.form = tuple((name, tensor.dtype, tuple(tensor.shape), is_opaque(tensor)) for _, name, tensor in found)
        for (module, name, tensor), start in zip(found, starts, strict=True):
            self._move(module, name, tensor, start)
        self.bounds: list[int] = []
        self._sections: list[Section] = []
        places = iter(starts)
        for name, child, tensors in children:
            if tensors:
                self.bounds.append(min([next(places) for _ in tensors]))
                self._sections.append(Section(len(self._sections), child))
                setattr(layer, name, self._sections[-1])
        self.bounds.append(size)
        self.crossing: Crossing | None = None
        if lane is not None:
            lane.pin(self.memory.address, size)
            weakref.finalize(self.memory, lane.unpin, self.memory.address)
            here.copy_(self._flat)
            self.crossing = Crossing(lane, here, self._flat, self.bounds)

    @contextmanager
    def watched(self, watch: Watch) -> Generator[Layer]:
        """The layer, while somebody is told what of it computes."""
        for section in self._sections:
            section.watch = watch
        try:
            yield self.layer
        finally:
            for section in self._sections:
                section.watch = None

    def _move(self, module: nn.Module, name: str, tensor: Tensor, start: int) -> None:
        there = _bytes_of(tensor)
        here = self._flat[start : start + len(there)]
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


def _tensors_of(child: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every tensor that something computes with: where it hangs, and the tensor."""
    for module in child.modules():
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

"""A layer whose numbers lie in one piece of memory, so that those of another layer can be read over them.

What it consists of lies there in the order in which it computes, and tells when it begins and when it has done: the one may
be still to come, and what the other used is free.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from swarm.decoder.block import Block
from swarm.decoder.crossing import Crossing, Lane
from swarm.decoder.device import view_as
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


class Layout:
    """How a layer of some kind lies in memory. bounds: where each of its sections begins, and the last ends.

    form: of its tensors; the same for layers whose bytes may take each other's place.
    """

    def __init__(self, layer: Layer) -> None:
        """Wraps what the layer consists of, to hear of it. Raises RequestError for tensors that cannot be moved."""
        self.layer = layer
        children = [(name, child, list(_tensors_of(child))) for name, child in layer.named_children()]
        self._tensors = [tensor for _, _, tensors in children for tensor in tensors]
        self._starts, self.size = _lay_out(getattr(module, name) for module, name in self._tensors)
        self.form = tuple(_describe(name, getattr(module, name)) for module, name in self._tensors)
        self.device = getattr(*self._tensors[0]).device
        self.bounds: list[int] = []
        self._sections: list[Section] = []
        places = iter(self._starts)
        for name, child, tensors in children:
            if tensors:
                self.bounds.append(min([next(places) for _ in tensors]))
                self._sections.append(Section(len(self._sections), child))
                setattr(layer, name, self._sections[-1])
        self.bounds.append(self.size)

    def move(self, flat: Tensor, address: int, *, has_numbers: bool) -> None:
        """Lie in other memory from now on. flat: [bytes] int8, at an address of the machine where it is the machine's.

        has_numbers: they come along.
        """
        for (module, name), start in zip(self._tensors, self._starts, strict=True):
            tensor = getattr(module, name)
            if has_numbers:
                there = _bytes_of(tensor)
                flat[start : start + len(there)].copy_(there)
            moved = view_of(address + start, tensor) if is_opaque(tensor) else view_as(flat, start, tensor)
            if isinstance(tensor, nn.Parameter):
                moved = nn.Parameter(moved, requires_grad=False)
            setattr(module, name, moved)

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


class LayerBuffer:
    """Memory of a layer. The layer's tensors are views of it; whatever is read into it is the layer from then on.

    Where a model's layers have matrices in different forms, one of each kind lies here, over one another. memory: of the
    machine; what is read into it goes on to the card where there is a crossing.
    """

    def __init__(self, kind: Hashable, layer: Layer, lane: Lane | None = None) -> None:
        """Takes over a layer that was made as any other: its numbers move here. lane: to the card that it is on.

        Raises RequestError if some lie where they cannot be moved from.
        """
        self._lane = lane
        self.layouts = {kind: Layout(layer)}
        self.crossing: Crossing | None = None
        self._device = self.layouts[kind].device
        self._lie(self.layouts[kind].size)
        if lane is not None:
            torch.frombuffer(self.memory.view, dtype=torch.int8).copy_(self._flat)

    def bytes_of(self, kind: Hashable) -> memoryview:
        """Where a layer of a kind is read to."""
        return self.memory.view[: self.layouts[kind].size]

    def adopt(self, kind: Hashable, layout: Layout) -> None:
        """Have room for layers of one more kind; the numbers of the one that shows what they are like stay behind."""
        if layout.size > len(self.memory.view):
            self._lie(layout.size)
        self.layouts[kind] = layout
        self._move(layout, has_numbers=False)

    def _lie(self, size: int) -> None:
        """In memory of so many bytes from now on, with whatever was there."""
        self.memory = Memory(size)
        here = torch.frombuffer(self.memory.view, dtype=torch.int8)
        self._flat = here if self._lane is None else torch.empty_like(here, device=self._device)
        for layout in self.layouts.values():
            self._move(layout, has_numbers=True)
        if self._lane is not None:
            self._lane.pin(self.memory.address, size)
            weakref.finalize(self.memory, self._lane.unpin, self.memory.address)
            self.crossing = Crossing(self._lane, here, self._flat)

    def _move(self, layout: Layout, *, has_numbers: bool) -> None:
        layout.move(self._flat, self.memory.address, has_numbers=has_numbers)
        layout.layer.__dict__["memory"] = self.memory, self._flat  # as long as either lives


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


def _describe(name: str, tensor: Tensor) -> tuple[str, torch.dtype, tuple[int, ...], bool]:
    return name, tensor.dtype, tuple(tensor.shape), is_opaque(tensor)


def _tensors_of(child: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every tensor that something computes with: where it hangs, and by which name."""
    for module in child.modules():
        held = {**vars(module), **dict(module.named_parameters(recurse=False))}
        for name, value in sorted(held.items()):
            if isinstance(value, Tensor) and value.numel():
                yield module, name


def _bytes_of(tensor: Tensor) -> Tensor:
    """[bytes] int8, in place."""
    if is_opaque(tensor):
        return memory_of(tensor)
    if not tensor.is_contiguous():
        raise RequestError("a layer of tensors that do not lie in one piece cannot be streamed")
    return tensor.detach().view(-1).view(torch.int8)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple

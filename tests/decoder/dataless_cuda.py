"""A card that is not there: tensors on "cuda" without data, whose shapes, dtypes and devices are checked.

What it sees: operations that mix devices, crossings, kernels by name, bytes alive. What it cannot see: values, which kernel
a real card would choose, a real lack of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from swarm.decoder.device import Cuda, Room, place_packed
from tests.alive import Storages
from tests.decoder.composed import masks_written_out, run_parts
from tests.decoder.late_copies import LateLane

aten = torch.ops.aten
READ_BYTES = 16
NO_KERNEL = (aten.detach.default, aten.empty.memory_format, aten.new_empty.default, aten.empty_like.default)


class DatalessCuda(Cuda):
    """Runs the real code for a card. What is placed has no data from then on; what is fetched is zeros, and
    true.

    seen: what happened on it. Whatever touches its tensors runs inside `running`.
    """

    def __init__(self) -> None:
        self.name = "cuda:0"
        self.key = "cuda-without-data"
        self.seen = Seen()
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self._is_running = False

    @property
    def kind(self) -> str:
        return "no card"

    def measure(self) -> Room:
        return Room(80 << 30, 80 << 30)

    def place(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        with self.running():
            return place_packed([tensor.as_subclass(Tensor) for tensor in tensors], self.where)

    def fetch(self, tensor: Tensor) -> Tensor:
        back = tensor.cpu()
        with _disable_current_modes():
            made = torch.ones if back.dtype == torch.bool else torch.zeros  # what is asked is whether all is well
            return made(tuple(back.shape), dtype=back.dtype).as_subclass(Fetched)

    def finish(self) -> None:
        return

    def trim(self) -> None:
        return

    def open_lane(self) -> LateLane:
        return LateLane(lambda there, here, part: None)

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._is_running:
            yield
            return
        self._is_running = True
        try:
            with self._fakes, _Bindings(), self.seen, masks_written_out():
                yield
        finally:
            self._is_running = False


class Fetched(Tensor):
    """A tensor with data where there are none otherwise."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with _disable_current_modes():
            return super().__torch_function__(func, types, args, kwargs or {})


class Seen(TorchDispatchMode):
    """What crossed between devices, kernels launched by name, and what is alive on the card."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings: Counter[tuple[str, str]] = Counter()
        self.kernels: Counter[str] = Counter()
        self.alive = Storages()

    def reset(self) -> None:
        """Forget all but what is alive."""
        self.crossings.clear()
        self.kernels.clear()
        self.alive.peak = self.alive.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        parts = run_parts(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        if func is aten.scaled_dot_product_attention.default:
            _check_addresses([*args, *(kwargs or {}).values()])
        result = func(*args, **(kwargs or {}))
        given = [one for one in args if isinstance(one, Tensor)]
        for made in result if isinstance(result, list | tuple) else [result]:
            if isinstance(made, Tensor):
                self._note(func, given, made)
                break
        return result

    def _note(self, func: Any, given: Sequence[Tensor], made: Tensor) -> None:
        source = given[1] if func is aten.copy_.default else given[0] if given else made
        if func in (aten._to_copy.default, aten.copy_.default) and source.device != made.device:
            self.crossings[source.device.type, made.device.type] += 1
        elif made.device.type == "cuda" and not func.is_view and func not in NO_KERNEL:
            self.kernels[str(func)] += 1
        if made.device.type == "cuda" and not any(made is one for one in given):
            self.alive.note(made)


def _check_addresses(given: Sequence[Any]) -> None:
    """Attention's kernels read so many bytes at once, and what does not begin there ends the process (seen on an H200)."""
    for one in given:
        if isinstance(one, Tensor) and one.storage_offset() * one.element_size() % READ_BYTES:
            raise RuntimeError(f"attention is given {list(one.shape)} at a misaligned address")


class _Bindings(TorchFunctionMode):
    """Sends past their bindings what asks for a guard on a card before it is dispatched: indexing and copying."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(issubclass(one, Fetched) for one in types):
            return func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__:
            return _select(*args)
        if func is Tensor.__setitem__:
            target, index, value = args
            view = _select(target, index)
            return aten.copy_(view, value) if isinstance(value, Tensor) else aten.fill_(view, value)
        if func is Tensor.copy_:
            return aten.copy_(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _select(tensor: Tensor, index: Any) -> Tensor:
    """tensor[index] by operations that are dispatched."""
    dimension = 0
    for one in index if isinstance(index, tuple) else (index,):
        if one is None:
            tensor = tensor.unsqueeze(dimension)
        elif isinstance(one, int):
            tensor = tensor.select(dimension, one)
            continue
        elif isinstance(one, slice):
            if one != slice(None):
                tensor = aten.slice.Tensor(tensor, dimension, one.start, one.stop, one.step or 1)
        else:
            tensor = aten.index.Tensor(tensor, [None] * dimension + [one])
        dimension += 1
    return tensor

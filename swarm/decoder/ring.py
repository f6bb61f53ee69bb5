"""Which layer is read into which buffer next, for one who needs layers in order and one who reads them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["empty", "reading", "ready", "lent"]


@dataclass(slots=True)
class _Buffer:
    number: int = -1
    state: State = "empty"


class Ring:
    """Buffers for some of many layers. After the last layer the first is needed again, for the next token."""

    def __init__(self, numbers: Sequence[int], buffers: int) -> None:
        """numbers: of the layers, in the order in which they are needed."""
        self._numbers = list(numbers)
        self._buffers = [_Buffer() for _ in range(buffers)]
        self._next = 0  # of the numbers, to be read

    def next_read(self) -> tuple[int, int] | None:
        """A buffer, and the number of the layer that is read into it from now on; None while no buffer is free for it."""
        number = self._numbers[self._next]
        free = next((place for place, buffer in enumerate(self._buffers) if buffer.state == "empty"), None)
        if free is None or self._holder(number) is not None:
            return None
        self._buffers[free] = _Buffer(number, "reading")
        self._next = (self._next + 1) % len(self._numbers)
        return free, number

    def have_read(self, buffer: int) -> None:
        """What was to be read into a buffer is there."""
        self._buffers[buffer].state = "ready"

    def take(self, number: int) -> int | None:
        """The buffer that has a layer, which is used from now on; None while it is to come.

        A layer that nobody is reading is read next: whoever asks has not come by the order.
        """
        holder = self._holder(number)
        if holder is None:
            self._begin_at(number)
            return None
        buffer = self._buffers[holder]
        if buffer.state == "reading":
            return None
        buffer.state = "lent"
        return holder

    def free(self, buffer: int) -> None:
        """A layer has been used. It stays where it is if there is a buffer for every one."""
        if len(self._numbers) <= len(self._buffers):
            self._buffers[buffer].state = "ready"
        else:
            self._buffers[buffer] = _Buffer()

    def _holder(self, number: int) -> int | None:
        return next((place for place, buffer in enumerate(self._buffers) if buffer.number == number), None)

    def _begin_at(self, number: int) -> None:
        self._next = self._numbers.index(number)
        for place, buffer in enumerate(self._buffers):
            if buffer.state == "ready":
                self._buffers[place] = _Buffer()

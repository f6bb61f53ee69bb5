"""Which layer is read into which buffer next, for one who needs layers in order and one who reads them. Pure.

A layer comes in sections, which are used in the order in which they come: it may be used before all of them are there, and
the next layer may be read over those that have been used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

NONE = -1


@dataclass(slots=True)
class _Buffer:
    """number: of the layer that is there, or comes. there: how many of its sections.

    lent: the layer that is used; used: those of its sections that will not be needed any more.
    """

    number: int = NONE
    there: int = 0
    lent: int = NONE
    used: set[int] = field(default_factory=set[int])


class Ring:
    """Buffers for some of many layers. After the last layer the first is needed again, for the next token."""

    def __init__(self, numbers: Sequence[int], buffers: int, sections: int = 1) -> None:
        """numbers: of the layers, in the order in which they are needed. sections: of each."""
        self._numbers = list(numbers)
        self._buffers = [_Buffer() for _ in range(buffers)]
        self._sections = sections
        self._next = 0  # of the numbers, to be read

    # Who reads --------------------------------------------------------------------------------------------------------

    def next_read(self) -> tuple[int, int] | None:
        """A buffer, and the number of the layer that is read into it from now on; None while no buffer is free for it."""
        number = self._numbers[self._next]
        if self._holder(number) is not None:
            return None
        free = [place for place, buffer in enumerate(self._buffers) if buffer.number == buffer.lent == NONE]
        place = next(iter(free or filter(self._is_being_used_up, range(len(self._buffers)))), None)
        if place is None:
            return None
        self._buffers[place].number, self._buffers[place].there = number, 0
        self._next = (self._next + 1) % len(self._numbers)
        return place, number

    def gives_way(self, place: int) -> int | None:
        """The layer that is still used in a buffer while another one comes there."""
        buffer = self._buffers[place]
        return None if buffer.lent in (NONE, buffer.number) else buffer.lent

    def may_write(self, place: int, sections: int) -> bool:
        """Whether nobody needs the first so many sections of what is still used in a buffer."""
        return self.gives_way(place) is None or self._buffers[place].used.issuperset(range(sections))

    def have_read(self, place: int, sections: int) -> None:
        """The first so many sections of what comes into a buffer are there."""
        self._buffers[place].there = sections

    # Who needs layers -------------------------------------------------------------------------------------------------

    def take(self, number: int) -> int | None:
        """The buffer that a layer is in, or comes into: it is lent from now on. None while nobody reads it.

        Then it is read next: whoever asks has not come by the order.
        """
        place = self._holder(number)
        if place is None:
            self._begin_at(number)
            return None
        buffer = self._buffers[place]
        if buffer.lent != NONE:
            return None
        buffer.lent, buffer.used = number, set()
        return place

    def has(self, place: int, section: int) -> bool:
        """Whether a section of the layer that is lent is there."""
        buffer = self._buffers[place]
        # Another one comes in its place only when all of it is there.
        return buffer.number != buffer.lent or section < buffer.there

    def use_up(self, place: int, section: int) -> None:
        """A section of the layer that is lent is not needed any more."""
        self._buffers[place].used.add(section)

    def free(self, place: int) -> None:
        """A layer has been used. It stays where it is if there is a buffer for every one."""
        buffer = self._buffers[place]
        if buffer.number == buffer.lent and buffer.there == self._sections and self._is_short:
            buffer.number = NONE
        buffer.lent = NONE

    @property
    def _is_short(self) -> bool:
        """Whether there are fewer buffers than layers."""
        return len(self._buffers) < len(self._numbers)

    def _is_being_used_up(self, place: int) -> bool:
        """Whether a buffer's layer gives way to the next one from its beginning on."""
        buffer = self._buffers[place]
        is_whole = buffer.number == buffer.lent and buffer.there == self._sections
        return is_whole and bool(buffer.used) and self._is_short

    def _holder(self, number: int) -> int | None:
        return next((place for place, buffer in enumerate(self._buffers) if buffer.number == number), None)

    def _begin_at(self, number: int) -> None:
        self._next = self._numbers.index(number)
        for buffer in self._buffers:
            if buffer.there == self._sections and buffer.lent == NONE:
                buffer.number = NONE

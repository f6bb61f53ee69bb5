"""How a layer that is read from disk gets onto a card while others compute there: what is read goes on piece by piece.

Neither side waits for the other on the machine: a card computes with a section once its copies are through, and copies over
one once what was computed with it is through.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

Event = Any  # a point in what a card has been asked to do


class Lane(Protocol):
    """Copies to a card, in order, beside what it computes."""

    def pin(self, address: int, size: int) -> None:
        """Let the card read from memory by itself, until it is given back."""
        ...

    def unpin(self, address: int) -> None: ...

    def send(self, there: Tensor, here: Tensor, part: tuple[int, int], after: Sequence[Event]) -> Event:
        """Copy to the card once some points have been reached; the point at which that is done.

        part: from which number on and before which one.
        """
        ...

    def mark(self) -> Event:
        """The point that what has been asked to be computed so far reaches when it is through."""
        ...

    def hold(self, event: Event) -> None:
        """What is asked to be computed from now on waits for a point."""
        ...

    def wait(self, event: Event) -> None:
        """Until a point has been reached."""
        ...


class Crossing:
    """Of one buffer. here: [bytes] in the machine's memory; there: [bytes] on the card."""

    def __init__(self, lane: Lane, here: Tensor, there: Tensor) -> None:
        self._lane = lane
        self._here = here
        self._there = there
        self._ready: dict[int, Event] = {}  # by section: it is there
        self._free: dict[tuple[int, int], Event] = {}  # by where a section lay: it is not needed any more
        self._sent = 0
        self._last: Event | None = None

    # Who reads --------------------------------------------------------------------------------------------------------

    def send(self, done: int, bounds: Sequence[int]) -> None:
        """So many bytes of a layer lie in the machine's memory: what is new of them goes on.

        0: another layer is about to be read; what was there has gone then. bounds: of its sections.
        """
        if not done:
            self.settle()
            self._sent = 0
        if done <= self._sent:
            return
        after = [event for (start, stop), event in self._free.items() if start < done and self._sent < stop]
        self._last = self._lane.send(self._there, self._here, (self._sent, done), after)
        for section in range(bisect_right(bounds, self._sent) - 1, min(bisect_left(bounds, done), len(bounds) - 1)):
            self._ready[section] = self._last
        self._sent = done

    def settle(self) -> None:
        """Wait until what has been sent is there."""
        if self._last is not None:
            self._lane.wait(self._last)

    # Who computes -----------------------------------------------------------------------------------------------------

    def begin(self, section: int) -> None:
        """What is asked to be computed from now on takes a section."""
        self._lane.hold(self._ready[section])

    def end(self, start: int, stop: int) -> None:
        """All that takes a section that lies there has been asked for."""
        self._free = {**self._free, (start, stop): self._lane.mark()}  # whoever reads may be going through the old one

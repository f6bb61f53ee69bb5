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
    """Of one buffer. here: [bytes] in the machine's memory; there: [bytes] on the card. bounds: as the buffer's."""

    def __init__(self, lane: Lane, here: Tensor, there: Tensor, bounds: Sequence[int]) -> None:
        self._lane = lane
        self._here = here
        self._there = there
        self._bounds = bounds
        self._ready: list[Event | None] = [None] * (len(bounds) - 1)  # by section: it is there
        self._free: list[Event | None] = [None] * (len(bounds) - 1)  # it is not needed any more
        self._sent = 0
        self._last: Event | None = None

    # Who reads --------------------------------------------------------------------------------------------------------

    def send(self, done: int) -> None:
        """So many bytes of a layer lie in the machine's memory: what is new of them goes on.

        0: another layer is about to be read; what was there has gone then.
        """
        if not done:
            self.settle()
            self._sent = 0
        if done <= self._sent:
            return
        sections = range(bisect_right(self._bounds, self._sent) - 1, bisect_left(self._bounds, done))
        after = [event for section in sections if (event := self._free[section]) is not None]
        self._last = self._lane.send(self._there, self._here, (self._sent, done), after)
        for section in sections:
            self._ready[section] = self._last
        self._sent = done

    def settle(self) -> None:
        """Wait until what has been sent is there."""
        if self._last is not None:
            self._lane.wait(self._last)

    # Who computes -----------------------------------------------------------------------------------------------------

    def begin(self, section: int) -> None:
        """What is asked to be computed from now on takes a section."""
        event = self._ready[section]
        assert event is not None
        self._lane.hold(event)

    def end(self, section: int) -> None:
        """All that takes a section has been asked for."""
        self._free[section] = self._lane.mark()

"""A lane of copies that run as late as they may: when they are waited for. What is done too early has other bytes then."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

Part = tuple[int, int]


@dataclass(eq=False)
class Copy:
    """One that was asked for. used_at: when what was computed first waited for it; 0: nothing has."""

    there: Tensor
    here: Tensor
    part: Part
    is_through: bool = False
    used_at: int = 0


@dataclass(frozen=True)
class Mark:
    """A point in what was computed."""

    at: int


class LateLane:
    """Copies in order, by `copy`: there, here, from which number on and before which one."""

    def __init__(self, copy: Callable[[Tensor, Tensor, Part], object]) -> None:
        self._copy = copy
        self._waiting: deque[Copy] = deque()
        self._known: dict[tuple[int, Part], Copy] = {}  # by where it went, the last one
        self._lock = threading.Lock()  # one side sends, another computes
        self._now = 0

    def pin(self, address: int, size: int) -> None: ...

    def unpin(self, address: int) -> None: ...

    def send(self, there: Tensor, here: Tensor, part: Part, after: Sequence[Copy | Mark]) -> Copy:
        with self._lock:
            self._check(there, part, after)
            made = Copy(there, here, part)
            self._waiting.append(made)
            self._known[id(there), part] = made
            return made

    def mark(self) -> Mark:
        with self._lock:
            self._now += 1
            return Mark(self._now)

    def hold(self, event: Copy | Mark) -> None:
        assert isinstance(event, Copy)
        with self._lock:
            self._now += 1
            self._run(event, self._now)
            event.used_at = event.used_at or self._now  # the first of the sections that it brought

    def wait(self, event: Copy | Mark) -> None:
        assert isinstance(event, Copy)
        with self._lock:
            self._run(event, 0)

    def _run(self, event: Copy, used_at: int) -> None:
        while not event.is_through:
            one = self._waiting.popleft()
            self._copy(one.there, one.here, one.part)
            one.is_through, one.used_at = True, used_at

    def _check(self, there: Tensor, part: Part, after: Sequence[Copy | Mark]) -> None:
        """What was there has been used up by something that was computed before one of these points."""
        latest = max((one.at for one in after if isinstance(one, Mark)), default=0)
        for (place, (start, stop)), one in self._known.items():
            if place == id(there) and start < part[1] and part[0] < stop and one.used_at > latest:
                raise RuntimeError("copied over what is still computed with")

"""The cores of a simulated machine: held by one node at a time, as its lock files have it. A stalled node keeps them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class SharedCores:
    """Who computes on one machine, and who waits."""

    def __init__(self) -> None:
        self._holder = ""
        self._waiting: deque[tuple[str, Callable[[bool], None]]] = deque()

    def ask(self, name: str, on_taken: Callable[[bool], None]) -> None:
        """on_taken: called with whether the node had to wait, now or when it is its turn."""
        if self._holder:
            self._waiting.append((name, on_taken))
        else:
            self._holder = name
            on_taken(False)

    def give(self, name: str) -> None:
        """The next one's turn, if it was this one's."""
        if self._holder != name:
            return
        self._holder = ""
        if self._waiting:
            self._holder, on_taken = self._waiting.popleft()
            on_taken(True)

    def end(self, name: str) -> None:
        """A process is gone, and its locks with it."""
        self._waiting = deque(one for one in self._waiting if one[0] != name)
        self.give(name)

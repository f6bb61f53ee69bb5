"""Nodes that share a machine's cores take turns at computing: a file that whoever computes holds locked.

Two processes that each run a full set of OpenMP threads on the same cores wait for each other's descheduled threads at
every barrier: three nodes on two cores then served sixteen sessions at a quarter of the speed of one.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path


class Turns:
    """One turn at a time among the processes that name the same path; without one, always ours.

    Two locks: `next` is held by the one who waits at the head of the queue, so that whoever has just computed cannot
    take the turn again before the others. A dead process's locks end with it.
    """

    def __init__(self, path: Path | None) -> None:
        self._turn = self._next = -1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._turn, self._next = (
                os.open(path.with_suffix(suffix), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                for suffix in (".turn", ".next")
            )

    def take(self, on_taken: Callable[[], None]) -> bool:
        """True if the turn is ours at once; else `on_taken` is called, on another thread, when it is."""
        if self._turn < 0:
            return True
        is_head = _try_lock(self._next)
        if is_head and _try_lock(self._turn):
            fcntl.flock(self._next, fcntl.LOCK_UN)
            return True
        threading.Thread(target=self._wait, args=(is_head, on_taken), name="turn", daemon=True).start()
        return False

    def _wait(self, is_head: bool, on_taken: Callable[[], None]) -> None:
        if not is_head:
            fcntl.flock(self._next, fcntl.LOCK_EX)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        fcntl.flock(self._next, fcntl.LOCK_UN)
        on_taken()

    def give(self) -> None:
        """Let the next one compute."""
        if self._turn >= 0:
            fcntl.flock(self._turn, fcntl.LOCK_UN)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

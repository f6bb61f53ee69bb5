"""Nodes that share a machine's cores compute one at a time: a file that whoever computes holds locked.

Two processes that each run a full set of OpenMP threads on the same cores wait for each other's descheduled threads at
every barrier: three nodes on two cores then served sixteen sessions at a quarter of the speed of one. How long to wait for
one that does not go on is place.py's decision.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path


class Cores:
    """Held by one at a time of the processes that name the same path; without one, always ours.

    Two locks: `next` is held by the one who waits at the head of the queue, so that whoever has just computed cannot
    take the cores again before the others. A dead process's locks end with it; a stopped one keeps them.
    """

    def __init__(self, path: Path | None) -> None:
        self._cores = self._next = self._probe = -1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._cores, self._next = (
                os.open(path.with_suffix(suffix), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                for suffix in (".held", ".next")
            )
            self._probe = os.open(path.with_suffix(".held"), os.O_RDWR | os.O_CLOEXEC)

    def take(self, on_taken: Callable[[], None]) -> bool:
        """True if they are ours at once; else `on_taken` is called, on another thread, when they are."""
        if self._cores < 0:
            return True
        is_head = _try_lock(self._next)
        if is_head and _try_lock(self._cores):
            fcntl.flock(self._next, fcntl.LOCK_UN)
            return True
        threading.Thread(target=self._wait, args=(is_head, on_taken), name="cores", daemon=True).start()
        return False

    def _wait(self, is_head: bool, on_taken: Callable[[], None]) -> None:
        if not is_head:
            fcntl.flock(self._next, fcntl.LOCK_EX)
        fcntl.flock(self._cores, fcntl.LOCK_EX)
        fcntl.flock(self._next, fcntl.LOCK_UN)
        on_taken()

    def are_used(self) -> bool:
        """Whether somebody computes at this moment, this node included."""
        if self._probe < 0:
            return False
        if not _try_lock(self._probe):
            return True
        fcntl.flock(self._probe, fcntl.LOCK_UN)
        return False

    def give(self) -> None:
        """Let the next one compute."""
        if self._cores >= 0:
            fcntl.flock(self._cores, fcntl.LOCK_UN)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Device memory that nodes on one machine have promised to use but not allocated yet: a locked file a device.

Without it, nodes that start together would each see the same free bytes and all claim them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import psutil


@contextmanager
def one_at_a_time(directory: Path | None) -> Generator[None]:
    """For choosing a device and taking a line in its ledger. directory: of ledgers, None where nothing can be shared."""
    if directory is None:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(directory / "choosing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Ledger:
    """This process's line in a device's ledger."""

    def __init__(self, directory: Path | None, device: str) -> None:
        """directory: None where nothing can be shared. device: what tells it from others, for all processes alike."""
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = None if directory is None else directory / f"{device.replace(':', '-')}.json"
        self._key = f"{os.getpid()}:{psutil.Process().create_time():.2f}"

    def promise(self, measure_free: Callable[[], int], most: int) -> int:
        """Take up to `most` bytes of what others have not been promised.

        measure_free: bytes that may be used on the device now, read while the ledger is locked.
        """
        with self._locked() as entries:
            outstanding = sum(max(0, promised - allocated) for promised, allocated in entries.values())
            free = max(0, measure_free() - outstanding)
            granted = min(most, free)
            entries[self._key] = (granted, 0)
            return granted

    def note_allocated(self, allocated: int) -> None:
        """So much of the promise shows in the device's own figures by now."""
        with self._locked() as entries:
            promised, _ = entries.get(self._key, (allocated, 0))
            entries[self._key] = (promised, allocated)

    def leave(self) -> None:
        with self._locked() as entries:
            entries.pop(self._key, None)

    @contextmanager
    def _locked(self) -> Generator[dict[str, tuple[int, int]]]:
        """The entries of living processes, written back afterwards."""
        if self._path is None:
            yield {}
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            entries = _parse(os.pread(descriptor, 1 << 20, 0))
            entries = {key: value for key, value in entries.items() if _is_alive(key)}
            yield entries
            with contextlib.suppress(OSError):  # the disk is full: others guess
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(entries).encode(), 0)
        finally:
            os.close(descriptor)


def _parse(data: bytes) -> dict[str, tuple[int, int]]:
    try:
        raw = cast("dict[str, list[int]]", json.loads(data or b"{}"))
        return {str(key): (int(promised), int(allocated)) for key, (promised, allocated) in raw.items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # a damaged ledger costs a guess at start-up, no more


def _is_alive(key: str) -> bool:
    pid, _, created = key.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except (psutil.Error, ValueError):
        return False

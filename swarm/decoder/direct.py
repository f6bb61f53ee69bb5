"""Files read past the page cache, where the file system allows it: what is read again and again pushes nothing out."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from swarm.errors import WeightsError

Tick = Callable[[], None]
Pace = Callable[
    [int, int], None
]  # so many bytes are there; returns when those up to the other number may be written over

PIECE_BYTES = 8 << 20  # each costs a wake-up beside cores that compute: a fifth of the rate at 4 MB, 3% more at 12
SAMPLE_BYTES = 64 << 20  # that tell how fast a disk is
SAMPLE_SECONDS = 0.5
DIRECT_STEP = 4096  # addresses, offsets and lengths of direct reads


class DirectFile:
    """A file of bytes, open for reading; one that changes meanwhile is an error and never mixed."""

    def __init__(self, path: Path) -> None:
        """Raises WeightsError if it cannot be opened."""
        self.path = path
        self._is_direct = True
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECT", 0))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
            self._fall_back()
        self._seen = self._look()
        self.size = self._seen[0]

    def _fall_back(self) -> None:
        """To ordinary reads: the file system has no direct ones."""
        self._is_direct = False
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def _look(self) -> tuple[int, int]:
        """Length, and when it was written; not when its entry changed: one that is replaced stays here as it is."""
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def read_into(self, memory: memoryview, pace: Pace = lambda done, stop: None) -> None:
        """All of it. memory: as long as the file rounded up to pages, and at the beginning of one.

        pace: called before each piece, and when all is there and nothing has changed meanwhile.
        Raises WeightsError if it cannot be read or is not what it was when it was opened.
        """
        done = 0
        while done < self.size:
            stop = min(done + PIECE_BYTES, len(memory))
            pace(done, stop)
            done += self.read_piece(memory[done:stop], done)
        if self._look() != self._seen:
            raise WeightsError(f"{self.path} has changed while it was in use; restart the node")
        pace(self.size, self.size)

    def read_piece(self, memory: memoryview, offset: int) -> int:
        """Some of it; how many bytes. Raises WeightsError."""
        try:
            count = os.preadv(self._descriptor, [memory], offset)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._is_direct:
                raise WeightsError(f"{self.path} cannot be read: {error.strerror}") from None
            os.close(self._descriptor)
            self._fall_back()
            return 0
        if count == 0:
            raise WeightsError(f"{self.path} is cut short at byte {offset} of {self.size}")
        if not self._is_direct:
            os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_DONTNEED)
        return count

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def measure_rate(paths: Iterable[Path]) -> float:
    """Bytes a second that some of these files are read with; 0 if they are too small to tell, or cannot be read."""
    memory = memoryview(mmap.mmap(-1, PIECE_BYTES))
    memory[::DIRECT_STEP] = bytes(PIECE_BYTES // DIRECT_STEP)  # touched, as what is read into again and again is
    start, done = time.perf_counter(), 0
    for path in paths:
        try:
            with closing(DirectFile(path)) as file:
                for offset in range(0, file.size, PIECE_BYTES):
                    done += file.read_piece(memory, offset)
        except WeightsError:
            return 0.0
        if done >= SAMPLE_BYTES or time.perf_counter() - start > SAMPLE_SECONDS:
            break
    return done / (time.perf_counter() - start) if done >= PIECE_BYTES else 0.0

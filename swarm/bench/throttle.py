"""A source that gives so many bytes a second: a token bucket around each read."""

from __future__ import annotations

import time
from pathlib import Path

from swarm.decoder.direct import DirectFile

BURST_BYTES = 8 << 20


class Bucket:
    """Bytes that a source gives: so many a second, and a few at once."""

    def __init__(self, rate: float | None = None) -> None:
        """rate: bytes a second; None: as many as there are."""
        self.rate = rate
        self._paid_until = 0.0

    def take(self, size: int, credit: int = BURST_BYTES) -> None:
        """Wait until they are there. credit: so many are there at once after a while in which nothing was taken."""
        if self.rate is None:
            return
        now = time.perf_counter()
        self._paid_until = max(self._paid_until, now - credit / self.rate) + size / self.rate
        if self._paid_until > now:
            time.sleep(self._paid_until - now)


class SlowFile(DirectFile):
    """A file that a bucket slows down."""

    def __init__(self, path: Path, bucket: Bucket) -> None:
        super().__init__(path)
        self._bucket = bucket

    def read_piece(self, memory: memoryview, offset: int) -> int:
        count = self._read(memory, offset)
        self._bucket.take(count)
        return count

    def _read(self, memory: memoryview, offset: int) -> int:
        return super().read_piece(memory, offset)


class CachedFile(SlowFile):
    """A file of which the page cache keeps what is read."""

    def _read(self, memory: memoryview, offset: int) -> int:
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.readinto(memory) or 0

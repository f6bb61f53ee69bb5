"""Events from other threads into a poll loop: a queue and a descriptor that becomes readable."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Any thread puts; the one that polls `descriptor` takes."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def put(self, item: Item) -> None:
        self._items.put(item)
        os.eventfd_write(self.descriptor, 1)

    def take(self) -> Iterator[Item]:
        """Everything that has been put so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        while True:
            try:
                yield self._items.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        os.close(self.descriptor)

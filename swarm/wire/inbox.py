"""Events from other threads into a poll loop: a queue and a descriptor that becomes readable."""

from __future__ import annotations

import os
import queue
import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Any thread puts; the one that polls `descriptor` takes."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._is_closed = False

    def put(self, item: Item) -> None:
        """Hand an item over; after `close` nobody takes it any more."""
        self._items.put(item)
        with self._closing:  # a descriptor that was closed may already be another file's
            if not self._is_closed:
                os.eventfd_write(self.descriptor, 1)

    def take(self) -> list[Item]:
        """Everything that has been put so far; to be called when the descriptor is readable."""
        os.eventfd_read(self.descriptor)
        items: list[Item] = []
        while not self._items.empty():
            items.append(self._items.get_nowait())
        return items

    def close(self) -> None:
        with self._closing:
            self._is_closed = True
            os.close(self.descriptor)

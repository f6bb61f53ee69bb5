"""Waits for any of a changing set of sockets, or for the inbox."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import zmq


class Polling:
    """A poll set that follows its sockets."""

    def __init__(self, inbox: int) -> None:
        """inbox: a descriptor that is always among those polled."""
        self._poller = zmq.Poller()
        self._poller.register(inbox, zmq.POLLIN)
        self._polled: set[zmq.Socket[bytes]] = set()
        self._changes_seen: int | None = None

    def follow(self, changes: int, sockets: Callable[[], Iterable[zmq.Socket[bytes]]]) -> None:
        """Poll just these sockets; they are looked at only when `changes` differs from the last call's."""
        if changes == self._changes_seen:
            return
        self._changes_seen = changes
        wanted = set(sockets())
        for socket in self._polled - wanted:
            self._poller.unregister(socket)
        for socket in wanted - self._polled:
            self._poller.register(socket, zmq.POLLIN)
        self._polled = wanted

    def wait(self, seconds: float) -> set[object]:
        """What has input, after `seconds` at most."""
        return {source for source, _ in self._poller.poll(int(max(0.0, seconds) * 1000) + 1)}

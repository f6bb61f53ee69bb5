"""Waits for any of a changing set of sockets or for the inbox, and sends on them.

Polls the sockets' descriptors and asks only those that fired: zmq_poll asks every socket twice, and a node in a swarm
has dozens. A descriptor fires for what has come since its socket was last asked, and sending asks too: so whatever was
sent on or found ready is asked again before the next wait. That is why sending is done here.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterable, Sequence

import zmq

from swarm.wire.codec import Frame

_MORE = zmq.NOBLOCK | zmq.SNDMORE
COPIED_BYTES = 64 << 10  # sending by reference costs more than copying this


class Polling:
    """A poll set that follows its sockets."""

    def __init__(self, inbox: int) -> None:
        """inbox: a descriptor that is always among those polled."""
        self._inbox = inbox
        self._epoll = select.epoll()
        self._epoll.register(inbox, select.EPOLLIN)
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        self._to_ask: set[zmq.Socket[bytes]] = set()
        self._changes_seen: int | None = None

    def follow(self, changes: int, sockets: Callable[[], Iterable[zmq.Socket[bytes]]]) -> None:
        """Poll just these sockets; they are looked at only when `changes` differs from the last call's."""
        if changes == self._changes_seen:
            return
        self._changes_seen = changes
        wanted = {int(socket.getsockopt(zmq.FD)): socket for socket in sockets()}
        for descriptor, socket in self._sockets.items():
            if wanted.get(descriptor) is not socket:
                with contextlib.suppress(OSError):  # closed meanwhile, which took it out of the set
                    self._epoll.unregister(descriptor)
        for descriptor, socket in wanted.items():
            if self._sockets.get(descriptor) is not socket:
                self._epoll.register(descriptor, select.EPOLLIN)
        self._sockets = wanted
        self._to_ask = set(wanted.values())

    def wait(self, seconds: float) -> set[object]:
        """What has input, after `seconds` at most."""
        ready: set[object] = {socket for socket in self._to_ask if _has_input(socket)}
        for descriptor, _ in self._epoll.poll(0.0 if ready else max(0.0, seconds)):
            if descriptor == self._inbox:
                ready.add(descriptor)
                continue
            socket = self._sockets[descriptor]
            if _has_input(socket):
                ready.add(socket)
        self._to_ask = {socket for socket in ready if isinstance(socket, zmq.Socket)}
        return ready

    def send(self, socket: zmq.Socket[bytes], frames: Sequence[Frame]) -> bool:
        """Send a message without blocking; False if nobody is there or the queue is full."""
        self._to_ask.add(socket)
        try:
            for frame in frames[:-1]:
                socket.send(frame, _MORE, copy=len(frame) <= COPIED_BYTES)
            socket.send(frames[-1], zmq.NOBLOCK, copy=len(frames[-1]) <= COPIED_BYTES)
        except zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        self._epoll.close()


def _has_input(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

"""Waits for any of a changing set of sockets or for the inbox, and sends on them.

Polls the sockets' descriptors and asks only those that fired: zmq_poll asks every socket twice, and a node in a swarm
has dozens. A descriptor fires for what has come since its socket was last asked, and sending asks too: so whatever was
sent on or found ready is asked again before the next wait. That is why sending is done here.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import zmq

from swarm.wire.codec import Frame

_IN = int(zmq.POLLIN)
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
        with_input = _ask(self._to_ask)
        fired = {descriptor for descriptor, _ in self._epoll.poll(0.0 if with_input else max(0.0, seconds))}
        has_inbox = self._inbox in fired
        fired.discard(self._inbox)
        self._to_ask = with_input | _ask({self._sockets[descriptor] for descriptor in fired})
        return {*self._to_ask, self._inbox} if has_inbox else {*self._to_ask}

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


def _ask(sockets: set[zmq.Socket[bytes]]) -> set[zmq.Socket[bytes]]:
    """Those that have input."""
    # Not getsockopt(EVENTS): it makes enumeration members, ten calls of Python for each socket.
    if not sockets:
        return set()
    found = {socket for socket, _ in zmq.zmq_poll([(socket, _IN) for socket in sockets], 0)}
    return cast("set[zmq.Socket[bytes]]", found)

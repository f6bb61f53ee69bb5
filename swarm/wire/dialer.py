"""Outgoing connections: one DEALER and its monitor for each (address, channel) dialled.

Says who answered (`LinkUp`), what they sent (`LinkMessage`), when a connection breaks (`LinkDown`), that nobody takes it
(`LinkRefused`) and why one cannot be made (`LinkFailed`). Reconnecting is ZeroMQ's work. Runs in the caller's poll loop and
never blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import zmq
from zmq.utils.monitor import recv_monitor_message

from swarm.keys import Identity, SwarmKeys
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.members import Hello, Welcome
from swarm.messages.tensors import WireTensor
from swarm.wire.codec import FRAME_LIMIT, SMALLEST_FRAME, WireError, decode, encode
from swarm.wire.events import (
    UNREACHABLE,
    WRONG_SECRET,
    LinkDown,
    LinkEvent,
    LinkFailed,
    LinkMessage,
    LinkRefused,
    LinkUp,
)
from swarm.wire.polling import Polling
from swarm.wire.sockets import make_dealer

TCP_SECONDS = 3.0
HANDSHAKE_SECONDS = 4.0
GOODBYE_MS = 300


@dataclass(slots=True)
class _Dial:
    address: str
    channel: Channel
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    since: float
    state: Literal["dialling", "connected", "secured", "up"] = "dialling"
    node: str = ""
    welcome: Welcome | None = None
    has_failed: bool = False
    frame_limit: int = FRAME_LIMIT


class Dialer:
    """All outgoing connections of a process."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        polling: Polling,
        keys: SwarmKeys,
        identity: Identity,
        hello: Hello,
    ) -> None:
        self._context = context
        self._polling = polling
        self._keys = keys
        self._identity = identity
        self._hello = hello
        self._dials: dict[tuple[str, Channel], _Dial] = {}
        self._up: dict[tuple[str, Channel], _Dial] = {}
        self._dial_of: dict[object, _Dial] = {}  # by socket and by monitor
        self.changes = 0

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll for input; the same until `changes` moves."""
        return [socket for dial in self._dials.values() for socket in (dial.socket, dial.monitor)]

    def dial(self, address: str, channel: Channel, now: float) -> None:
        """Connect to HOST:PORT unless that is under way already."""
        if (address, channel) in self._dials:
            return
        try:
            socket = make_dealer(self._context, self._keys, self._identity)
        except zmq.ZMQError:
            return  # no descriptor is left: as silent as one where nobody listens
        monitor = socket.get_monitor_socket(
            zmq.EVENT_CONNECTED
            | zmq.EVENT_CLOSED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        assert monitor is not None
        try:
            socket.connect(f"tcp://{address}")
        except zmq.ZMQError:
            socket.disable_monitor()
            socket.close()
            return  # not an address after all: as silent as one where nobody listens
        self.changes += 1
        dial = _Dial(address, channel, socket, monitor, now)
        self._dials[address, channel] = self._dial_of[socket] = self._dial_of[monitor] = dial

    def is_up(self, node: str, channel: Channel) -> bool:
        return (node, channel) in self._up

    def data_address(self, node: str) -> str | None:
        """Where a node takes data: the host at which its control socket answered, the port that it said."""
        dial = self._up.get((node, "control"))
        if dial is None or dial.welcome is None:
            return None
        return f"{dial.address.rpartition(':')[0]}:{dial.welcome.data_port}"

    def hang_up(self, address: str, channel: Channel, linger_ms: int = 0) -> None:
        """Give a connection up; what is queued on it has `linger_ms` to leave."""
        dial = self._dials.pop((address, channel), None)
        if dial is not None:
            self.changes += 1
            if self._up.get((dial.node, channel)) is dial:
                del self._up[dial.node, channel]
            del self._dial_of[dial.socket], self._dial_of[dial.monitor]
            dial.socket.disable_monitor()
            dial.monitor.close()
            dial.socket.close(linger_ms)

    def give_up(self, address: str) -> None:
        """Hang up a control connection, and the data connection to its node if nothing reaches that any more."""
        dial = self._dials.get((address, "control"))
        self.hang_up(address, "control")
        if dial is not None and dial.node and not self.is_up(dial.node, "control"):
            for other in list(self._dials.values()):
                if (other.node, other.channel) == (dial.node, "data") and other.state != "up":
                    self.hang_up(other.address, "data")

    def limit_frames(self, node: str, most: int) -> None:
        """Cut tensors for a node's data port into frames of at most `most` bytes, within the protocol's own bounds."""
        dial = self._up.get((node, "data"))
        if dial is not None:
            dial.frame_limit = max(SMALLEST_FRAME, min(FRAME_LIMIT, most))

    def send(self, node: str, channel: Channel, message: AnyMessage, tensor: WireTensor | None = None) -> bool:
        """Send to a node that is up; False if it is not, or its queue is full."""
        dial = self._up.get((node, channel))
        return dial is not None and self._send(dial, message, tensor)

    def _send(self, dial: _Dial, message: AnyMessage, tensor: WireTensor | None = None) -> bool:
        return self._polling.send(dial.socket, encode(message, tensor, dial.frame_limit))

    def receive(self, source: object, now: float) -> list[LinkEvent]:
        """What has happened on one of `sockets` that has input: the next message, or all news of a link; never blocks."""
        dial = self._dial_of.get(source)
        if dial is None:
            return []  # given up since it was found ready
        return list(self._watch(dial, now)) if source is dial.monitor else self._receive(dial)

    def check_deadlines(self, now: float) -> Iterator[LinkEvent]:
        """Report what has not connected in time; once a second is often enough."""
        for dial in list(self._dials.values()):
            if dial.state in ("dialling", "connected") and not dial.has_failed:
                limit = TCP_SECONDS if dial.state == "dialling" else HANDSHAKE_SECONDS
                if now - dial.since > limit:
                    dial.has_failed = True
                    yield LinkFailed(
                        dial.address, dial.channel, UNREACHABLE if dial.state == "dialling" else WRONG_SECRET
                    )

    def _watch(self, dial: _Dial, now: float) -> Iterator[LinkEvent]:
        while dial.monitor.poll(0):
            event = recv_monitor_message(dial.monitor, zmq.NOBLOCK)["event"]
            if event == zmq.EVENT_CONNECTED:
                dial.state, dial.since = "connected", now
            elif event == zmq.EVENT_CLOSED:
                yield LinkRefused(dial.address, dial.channel, dial.node)
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                dial.state = "secured"
                self._send(dial, self._hello)
            elif event == zmq.EVENT_DISCONNECTED and dial.state in ("up", "secured"):
                dial.state, dial.since = "dialling", now
                if self._up.get((dial.node, dial.channel)) is dial:
                    yield from self._replace(dial)
            elif not dial.has_failed:  # a handshake failed, or the listener hung up in the middle of it
                dial.has_failed = True
                yield LinkFailed(dial.address, dial.channel, WRONG_SECRET)

    def _replace(self, broken: _Dial) -> Iterator[LinkEvent]:
        """A link broke: another connection to its node takes its place if there is one."""
        link = broken.node, broken.channel
        del self._up[link]
        yield LinkDown(broken.node, broken.channel, broken.address)
        for dial in self._dials.values():
            if (dial.node, dial.channel) == link and dial.state == "up" and dial.welcome is not None:
                self._up[link] = dial
                yield LinkUp(dial.node, dial.channel, dial.address, dial.welcome)
                return

    def _receive(self, dial: _Dial) -> list[LinkEvent]:
        try:
            message, tensor = decode(dial.socket.recv_multipart(zmq.NOBLOCK))
        except (zmq.Again, WireError):
            return []  # a listener that talks nonsense is as good as silent
        if isinstance(message, Welcome):
            return [self._welcome(dial, message)]
        return [LinkMessage(dial.node, dial.channel, message, tensor)] if dial.state == "up" else []

    def _welcome(self, dial: _Dial, welcome: Welcome) -> LinkUp:
        dial.state, dial.node, dial.welcome, dial.has_failed = "up", welcome.node, welcome, False
        # Several addresses of one node may be dialled at once: the first to answer is the link, the rest stay spare.
        self._up.setdefault((welcome.node, dial.channel), dial)
        return LinkUp(welcome.node, dial.channel, dial.address, welcome)

    def close(self) -> None:
        for address, channel in list(self._dials):
            self.hang_up(address, channel, GOODBYE_MS)

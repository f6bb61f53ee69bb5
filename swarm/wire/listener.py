"""The sockets that a node receives on: one ROUTER for control, one for data, and the ZAP handler that guards both.

Owns who is connected: each message comes out with the node id of the key that authenticated it. Answers only on
connections that others made. Runs in the caller's poll loop and never blocks.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import zmq
from zmq.utils import z85

from swarm.errors import RequestError
from swarm.keys import SwarmKeys, node_id
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.members import Hello
from swarm.messages.sessions import Refused
from swarm.messages.tensors import WireTensor
from swarm.wire.codec import HEADER_LIMIT, MAX_FRAMES, TENSOR_LIMIT, WireError, decode, encode
from swarm.wire.events import Arrived, Asker
from swarm.wire.penalties import Penalties
from swarm.wire.polling import Polling
from swarm.wire.sockets import ZAP_DOMAIN, make_router

PORTS_TRIED = 100
FRAMES_DISCARDED_A_TURN = 256  # then the other sockets have their turn
REMEMBERED_CONNECTIONS = 4096


class Listener:
    """Listens for a node. `receive` from the ready sockets; `answer` on the connection that asked."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        polling: Polling,
        hosts: Sequence[str],
        port: int,
        keys: SwarmKeys,
    ) -> None:
        """Bind to `port` (control) and `port + 1` (data) on every host, or the next free pair above.

        Raises RequestError if no pair is free or a host is not this machine's.
        """
        self._polling = polling
        self._zap = context.socket(zmq.ROUTER)
        self._zap.linger = 0
        self._zap.bind("inproc://zeromq.zap.01")
        self._routers: dict[Channel, zmq.Socket[bytes]] = {}
        self._hosts = hosts
        self.port = self._bind(context, port, keys)
        self.sockets: list[zmq.Socket[bytes]] = [*self._routers.values(), self._zap]  # what to poll for input
        self._keys_of: dict[Channel, OrderedDict[bytes, str]] = {"control": OrderedDict(), "data": OrderedDict()}
        self._newest: OrderedDict[tuple[str, Channel], bytes] = OrderedDict()  # those who spoke last, last
        self._discarding: set[Channel] = set()
        self.penalties = Penalties()

    @property
    def data_port(self) -> int:
        return self.port + 1

    @property
    def addresses(self) -> list[str]:
        return [f"{host}:{self.port}" for host in self._hosts]

    def _bind(self, context: zmq.Context[zmq.Socket[bytes]], port: int, keys: SwarmKeys) -> int:
        for candidate in itertools.islice(itertools.count(port, 2), PORTS_TRIED):
            routers: dict[Channel, zmq.Socket[bytes]] = {
                "control": make_router(context, keys),
                "data": make_router(context, keys),
            }
            try:
                for host in self._hosts:
                    routers["control"].bind(f"tcp://{host}:{candidate}")
                    routers["data"].bind(f"tcp://{host}:{candidate + 1}")
            except zmq.ZMQError as error:
                for router in routers.values():
                    router.close()
                if error.errno != zmq.EADDRINUSE:
                    raise RequestError(f"cannot listen on {', '.join(self._hosts)}: {error}") from None
                continue
            self._routers = routers
            return candidate
        raise RequestError(f"no free pair of ports in {port}-{port + 2 * PORTS_TRIED}; pass another --port")

    def receive(self, source: object, now: float) -> Arrived | None:
        """The next message on one of `sockets` that has input, if there is one for others to see; never blocks.

        A malformed message is answered with Refused and silences its sender for a while.
        """
        if source is self._zap:
            self._authenticate()
            return None
        channel: Channel = "data" if source is self._routers["data"] else "control"
        try:
            received = self._receive(channel, self._routers[channel], now)
        except zmq.Again:
            return None
        return None if received is None else self._understand(channel, *received, now)

    def _authenticate(self) -> None:
        """Let every CURVE client in: finishing the handshake took the swarm's secret. Its key becomes its User-Id."""
        while True:
            try:
                frames = self._zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) < 9 or frames[2] != b"1.0":
                continue
            envelope, request, domain, mechanism, credentials = frames[:2], frames[3], frames[4], frames[7], frames[8:]
            known = domain == ZAP_DOMAIN and mechanism == b"CURVE" and len(credentials) == 1
            status, text, user = (
                (b"200", b"OK", z85.encode(credentials[0])) if known else (b"400", b"not a member", b"")
            )
            self._zap.send_multipart([*envelope, b"1.0", request, status, text, user, b""])

    def _receive(self, channel: Channel, router: zmq.Socket[bytes], now: float) -> tuple[str, list[bytes]] | None:
        """Who sent the next message, and its frames; None for one that is too large, thrown away piecemeal."""
        if channel in self._discarding:
            self._discard(channel, router)
            return None
        routing_id = router.recv(zmq.NOBLOCK)
        frame = router.recv(zmq.NOBLOCK, copy=False)  # as an object it tells whose key authenticated its connection
        node = self._keys_of[channel].get(routing_id) or self._remember(channel, routing_id, frame)
        frames = [routing_id, frame.bytes]
        size = len(frames[-1])
        while frame.more:
            if len(frames) > MAX_FRAMES + 1 or size > HEADER_LIMIT + TENSOR_LIMIT:
                self.penalties.note(node, now)
                self._discarding.add(channel)
                return None
            frame = router.recv(zmq.NOBLOCK, copy=False)
            frames.append(frame.bytes)
            size += len(frames[-1])
        return node, frames

    def _discard(self, channel: Channel, router: zmq.Socket[bytes]) -> None:
        for _ in range(FRAMES_DISCARDED_A_TURN):
            router.recv(zmq.NOBLOCK)
            if not router.getsockopt(zmq.RCVMORE):
                self._discarding.discard(channel)
                return

    def _remember(self, channel: Channel, routing_id: bytes, frame: zmq.Frame) -> str:
        """The authenticated node id behind a connection; routing ids are never reused."""
        known = self._keys_of[channel]
        user: object = frame.get("User-Id")
        known[routing_id] = node_id(str(user).encode())
        if len(known) > REMEMBERED_CONNECTIONS:
            known.popitem(last=False)
        return known[routing_id]

    def _understand(self, channel: Channel, node: str, frames: Sequence[bytes], now: float) -> Arrived | None:
        asker = Asker(node, channel, frames[0])
        if self.penalties.is_muted(node, now):
            return None
        try:
            message, tensor = decode(frames[1:])
            if isinstance(message, Hello) and message.node != node:
                raise WireError(f"hello claims to be {message.node}, the key is that of {node}", code="BAD_MESSAGE")
        except WireError as error:
            self.penalties.note(node, now)
            code = "BAD_VERSION" if error.code == "BAD_VERSION" else "BAD_MESSAGE"
            self.answer(asker, Refused(code=code, message=str(error)[:500]))
            return None
        if isinstance(message, Hello):
            self._newest[node, channel] = asker.routing_id
            self._newest.move_to_end((node, channel))
            if len(self._newest) > REMEMBERED_CONNECTIONS:
                self._newest.popitem(last=False)
        elif (node, channel) in self._newest:
            self._newest.move_to_end((node, channel))
        return Arrived(asker, message, tensor)

    def answer(self, asker: Asker, message: AnyMessage, tensor: WireTensor | None = None) -> bool:
        """Send on the connection that asked; False if it is gone or its queue is full."""
        return self._polling.send(self._routers[asker.channel], [asker.routing_id, *encode(message, tensor)])

    def send(self, node: str, channel: Channel, message: AnyMessage, tensor: WireTensor | None = None) -> bool:
        """Send to whoever said Hello last as `node` on `channel`; False if nobody did, or it is gone."""
        routing_id = self._newest.get((node, channel))
        return routing_id is not None and self.answer(Asker(node, channel, routing_id), message, tensor)

    def close(self) -> None:
        for socket in self.sockets:
            socket.close()

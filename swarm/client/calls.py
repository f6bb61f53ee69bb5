"""Questions to single nodes that wait for their answers. Pure but for the queue on which an answer goes to its asker."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass

from swarm.messages.any import AnyMessage
from swarm.messages.tensors import WireTensor

Answer = tuple[AnyMessage, WireTensor | None]


@dataclass(slots=True)
class Call:
    """A question to a node, and where its answer goes. until: seconds, monotonic; matches: whether a message answers it."""

    node: str
    message: AnyMessage
    matches: Callable[[AnyMessage], bool]
    reply: queue.SimpleQueue[Answer]
    until: float
    is_sent: bool = False


class Calls:
    """Those that are under way."""

    def __init__(self, send: Callable[[str, AnyMessage], bool]) -> None:
        """send: a message to a node; whether there was a connection for it."""
        self._send = send
        self._calls: list[Call] = []

    def begin(self, call: Call) -> bool:
        """Ask, now or once the node is reached; whether it was asked now."""
        self._calls.append(call)
        call.is_sent = self._send(call.node, call.message)
        return call.is_sent

    def link_up(self, node: str) -> None:
        """A node is reached: ask what waits for it."""
        for call in self._calls:
            if call.node == node and not call.is_sent:
                call.is_sent = self._send(node, call.message)

    def answer(self, node: str, message: AnyMessage, tensor: WireTensor | None) -> bool:
        """Give a message to whoever asked for it, if anybody did."""
        for call in self._calls:
            if call.node == node and call.matches(message):
                self._calls.remove(call)
                call.reply.put((message, tensor))
                return True
        return False

    def forget_late(self, now: float) -> None:
        """Nobody waits for these any more."""
        self._calls = [call for call in self._calls if call.until > now]

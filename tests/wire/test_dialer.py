"""Connections out: which of several to one node is the link, and what takes its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from swarm.keys import new_identity
from swarm.messages.members import Hello
from swarm.testing.integer_model import IntegerModel
from swarm.wire import dialer as dialing
from swarm.wire.dialer import Dialer
from swarm.wire.events import LinkDown, LinkEvent, LinkRefused, LinkUp
from swarm.wire.polling import Polling
from tests.swarms import KEYS, IntegerNode, make_node, wait_until

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Broken:
    """A connection's monitor that has one thing to say."""

    def __init__(self) -> None:
        self.left = 1

    def poll(self, milliseconds: int) -> int:
        del milliseconds
        self.left -= 1
        return self.left >= 0


class Caller:
    """A dialer in a poll loop of its own, and all that it has said."""

    def __init__(self, dialer: Dialer, polling: Polling) -> None:
        self.dialer = dialer
        self.events: list[LinkEvent] = []
        self._polling = polling

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Go on until something has come about."""

        def turn() -> bool:
            self._polling.follow(self.dialer.changes, lambda: self.dialer.sockets)
            for source in self._polling.wait(0.05):
                self.events += self.dialer.receive(source, time.monotonic())
            return condition()

        wait_until(turn, seconds, what)

    def addresses(self, kind: type[LinkUp | LinkDown | LinkRefused]) -> list[str]:
        return [event.address for event in self.events if isinstance(event, kind)]


@contextmanager
def calling() -> Iterator[Caller]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox = context.socket(zmq.PAIR)
    identity = new_identity()
    polling = Polling(int(inbox.getsockopt(zmq.FD)))
    dialer = Dialer(context, polling, KEYS, identity, Hello(node=identity.node, kind="client", incarnation=1))
    try:
        yield Caller(dialer, polling)
    finally:
        dialer.close()
        inbox.close()
        context.term()
        polling.close()


@pytest.fixture
def node() -> Iterator[IntegerNode]:
    node = make_node(IntegerModel(), "f", hosts=ADDRESSES)
    node.start()
    yield node
    node.stop()


def test_another_connection_to_a_node_takes_the_place_of_one_that_broke(
    node: IntegerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with calling() as caller:
        for address in node.process.addresses:
            caller.dialer.dial(address, "control", time.monotonic())
        caller.wait(lambda: len(caller.addresses(LinkUp)) == len(ADDRESSES), 5, "the node has answered at each address")
        first, second, third = caller.addresses(LinkUp)
        monkeypatch.setattr(dialing, "recv_monitor_message", lambda *_: {"event": zmq.EVENT_DISCONNECTED})

        def break_at(address: str) -> list[tuple[type[LinkEvent], str]]:
            dial = caller.dialer._dials[address, "control"]
            with monkeypatch.context() as patch:
                patch.setattr(dial, "monitor", Broken())
                return [(type(event), event.address) for event in caller.dialer._watch(dial, 0.0)]  # type: ignore[union-attr]

        assert break_at(second) == [], "it was a spare one"
        assert break_at(first) == [(LinkDown, first), (LinkUp, third)]
        assert caller.dialer.is_up(node.node, "control")
        assert break_at(third) == [(LinkDown, third)]
        assert not caller.dialer.is_up(node.node, "control")


def test_a_listener_that_is_gone_is_told_from_a_connection_that_broke(node: IntegerNode) -> None:
    """Where there has never been one, too."""
    address = node.address
    with calling() as caller:
        caller.dialer.dial(address, "control", time.monotonic())
        caller.wait(lambda: caller.addresses(LinkUp) == [address], 5, "the node has answered")
        assert caller.addresses(LinkRefused) == []
        node.stop()
        caller.wait(lambda: bool(caller.addresses(LinkRefused)), 5, "nobody takes the connection")
        assert caller.addresses(LinkDown) == [address]
        assert caller.events[-1] == LinkRefused(address, "control", node.node)
    with calling() as caller:
        caller.dialer.dial(address, "control", time.monotonic())
        caller.wait(lambda: bool(caller.events), 5, "nobody takes the connection")
        assert caller.events[0] == LinkRefused(address, "control", "")

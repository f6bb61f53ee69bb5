"""Connections out: which of several to one node is the link, and what takes its place."""

from __future__ import annotations

import time

import pytest
import zmq

from swarm.keys import new_identity
from swarm.messages import Hello
from swarm.testing.integer_model import IntegerModel
from swarm.wire import dialer as dialing
from swarm.wire.dialer import Dialer
from swarm.wire.events import LinkDown, LinkEvent, LinkUp
from swarm.wire.polling import Polling
from tests.swarms import KEYS, make_node, wait_until

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Broken:
    """A connection's monitor that has one thing to say."""

    def __init__(self) -> None:
        self.left = 1

    def poll(self, milliseconds: int) -> int:
        del milliseconds
        self.left -= 1
        return self.left >= 0


def test_another_connection_to_a_node_takes_the_place_of_one_that_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node(IntegerModel(), "f", hosts=ADDRESSES)
    node.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox = context.socket(zmq.PAIR)
    identity = new_identity()
    polling = Polling(int(inbox.getsockopt(zmq.FD)))
    dialer = Dialer(context, polling, KEYS, identity, Hello(node=identity.node, kind="client", incarnation=1))
    events: list[LinkEvent] = []

    def is_up() -> bool:
        polling.follow(dialer.changes, lambda: dialer.sockets)
        for source in polling.wait(0.05):
            events.extend(dialer.receive(source, time.monotonic()))
        return sum(isinstance(event, LinkUp) for event in events) == len(ADDRESSES)

    try:
        for address in node.process.addresses:
            dialer.dial(address, "control", time.monotonic())
        wait_until(is_up, 5, "the node has answered at each address")
        first, second, third = (event.address for event in events if isinstance(event, LinkUp))
        monkeypatch.setattr(dialing, "recv_monitor_message", lambda *_: {"event": zmq.EVENT_DISCONNECTED})

        def break_at(address: str) -> list[tuple[type[LinkEvent], str]]:
            dial = dialer._dials[address, "control"]
            with monkeypatch.context() as patch:
                patch.setattr(dial, "monitor", Broken())
                return [(type(event), event.address) for event in dialer._watch(dial, 0.0)]  # type: ignore[union-attr]

        assert break_at(second) == [], "it was a spare one"
        assert break_at(first) == [(LinkDown, first), (LinkUp, third)]
        assert dialer.is_up(node.node, "control")
        assert break_at(third) == [(LinkDown, third)]
        assert not dialer.is_up(node.node, "control")
    finally:
        dialer.close()
        node.stop()
        inbox.close()
        context.term()
        polling.close()

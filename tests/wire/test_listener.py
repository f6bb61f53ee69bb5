"""What a listener remembers of those who connect is bounded, and those who speak stay."""

from __future__ import annotations

import time

import pytest
import zmq

from swarm.messages.members import AskPeers, Hello
from swarm.wire import listener as listening
from swarm.wire.codec import encode
from swarm.wire.inbox import Inbox
from swarm.wire.listener import Listener
from swarm.wire.polling import Polling
from tests.swarms import HOST, KEYS

MOST = 8


def test_hellos_without_number_push_out_only_those_who_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "REMEMBERED_CONNECTIONS", MOST)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox: Inbox[None] = Inbox()
    polling = Polling(inbox.descriptor)
    listener = Listener(context, polling, [HOST], 19300, KEYS)
    try:
        for number in range(100):
            node = f"{number:016x}"
            hello = Hello(node=node, kind="client", incarnation=1)
            listener._understand("control", node, [node.encode(), *map(bytes, encode(hello))], time.monotonic())
            first = f"{0:016x}"
            listener._understand("control", first, [first.encode(), *map(bytes, encode(AskPeers()))], time.monotonic())
        assert len(listener._newest) == MOST
        assert (f"{0:016x}", "control") in listener._newest
        assert (f"{99:016x}", "control") in listener._newest
    finally:
        listener.close()
        context.term()
        polling.close()
        inbox.close()

"""Connections that say nothing, and many of them."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from starlette.types import Receive, Scope, Send

from swarm.cli.command import raise_file_limit
from swarm.gateway import server


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers everything with nothing."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.5)
    listening = server.listen("127.0.0.1", 0)
    threading.Thread(target=server.serve, args=(app, listening, lambda: None), daemon=True).start()
    return listening.getsockname()


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    return connection.recv(1000)


def test_a_connection_that_says_nothing_is_closed_and_one_that_asks_is_not(address: tuple[str, int]) -> None:
    silent, half, asking = (socket.create_connection(address, 5) for _ in range(3))
    half.sendall(b"GET / HTTP/1.1\r\nhost: loc")
    assert ask(asking).startswith(b"HTTP/1.1 204")
    start = time.monotonic()
    assert silent.recv(1) == half.recv(1) == b""
    assert 0.2 < time.monotonic() - start < 4
    assert ask(asking).startswith(b"HTTP/1.1 204")


def test_a_thousand_that_say_nothing_hold_nobody_up(address: tuple[str, int]) -> None:
    raise_file_limit()  # both ends of them are this process's
    silent = [socket.create_connection(address, 5) for _ in range(1000)]
    with socket.create_connection(address, 5) as asking:
        start = time.monotonic()
        assert ask(asking).startswith(b"HTTP/1.1 204")
        assert time.monotonic() - start < 2
    assert all(one.recv(1) == b"" for one in silent)


def test_an_address_that_is_taken_is_told() -> None:
    with server.listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        server.listen(*taken.getsockname())

"""Serves the application: sockets, limits, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SEND_BUFFER = 32 << 10  # of a connection in the kernel: a caller that reads nothing is noticed after some 200 KB
KEEP_ALIVE_SECONDS = 75  # longer than callers keep a connection that rests, or both end it at once
HEADER_SECONDS = 15.0  # until a connection has told its first request
GRACE_SECONDS = 4.0  # in which answers may come to their ends once the server is told to stop
STOP_SECONDS = 6  # until it is gone whatever happens


class HttpConnection(H11Protocol):
    """A connection that is closed if it says nothing: uvicorn itself waits for ever."""

    _silence: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._silence = self.loop.call_later(HEADER_SECONDS, self._end_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        self._silence.cancel()
        super().connection_lost(exc)

    def _end_silence(self) -> None:
        if self.cycle is None:  # pyright: ignore[reportUnnecessaryComparison]  no request has come so far
            self.transport.close()


class HttpServer(uvicorn.Server):
    """A server that tells those whom it still answers that it stops."""

    def __init__(self, config: uvicorn.Config, end_answers: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_answers = end_answers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        telling = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._end_answers)
        await super().shutdown(sockets)
        telling.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        listening.bind((host, port))
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening


def serve(app: ASGIApp, listening: socket.socket, end_answers: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT. end_answers: tells those whom the application still answers that it stops."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of pieces written to a caller that has just gone
    config = uvicorn.Config(
        app,
        http=HttpConnection,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level="error",  # what is no HTTP is worth no line: anybody may send any number of it
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    asyncio.run(HttpServer(config, end_answers).serve(sockets=[listening]))

"""One HTTP request and its answer: bodies that are bounded, events for a stream, callers that go away or read no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from swarm.gateway.failures import Failure, headers_of

BODY_LIMIT = 8 << 20
BODY_SECONDS = 30.0  # for all of it
SEND_SECONDS = 30.0  # until a caller that reads nothing is cut off
ALIVE_SECONDS = 10.0  # between signs of life
SILENT_SECONDS = 60.0  # until an answer that comes all at once gives the first
JSON_TYPE = "application/json"
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
log = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Result = TypeVar("Result")


class Gone(Exception):  # noqa: N818  it is no error
    """The caller does not listen any more."""


class Exchange:
    """A request that came, and what is sent back."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = secrets.token_hex(12)
        self.scope = scope
        self.has_begun = False  # to answer
        self._receive = receive
        self._send = send
        self._last = ""  # of a stream
        self._written_at = time.monotonic()

    # What is asked ----------------------------------------------------------------------------------------------------

    async def read(self, form: type[Asked]) -> Asked:
        """The body as JSON of a form. Raises Failure naming the field that is wrong."""
        body = await self._read_body()
        try:
            return msgspec.json.decode(body, type=form)
        except msgspec.ValidationError as error:
            raise _failure_at(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Failure(400, f"the body is no JSON in UTF-8: {error}") from None

    async def _read_body(self) -> bytes:
        told = dict(self.scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > BODY_LIMIT:
            raise _too_large()
        body = b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    body += message.get("body", b"")
                    if len(body) > BODY_LIMIT:
                        raise _too_large()
                    if not message.get("more_body"):
                        return body
        except TimeoutError:
            raise Failure(408, f"the body has not come within {BODY_SECONDS:.0f} s") from None

    # What is answered -------------------------------------------------------------------------------------------------

    async def send_json(self, status: int, told: object, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        await self.send_bytes(status, json.dumps(told, allow_nan=False).encode(), JSON_TYPE, headers)

    async def send_bytes(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """The same of any type of content."""
        await self._begin(status, {"content-type": kind, "content-length": str(len(body)), **(headers or {})})
        await self._send_piece(body, more=False)

    async def send_result(self, work: Coroutine[Any, Any, object]) -> None:
        """A whole answer, once work gives it. Raises Failure.

        One that takes long begins with spaces, which JSON allows: callers hang up on who says nothing for minutes.
        """
        doing = asyncio.ensure_future(work)
        try:
            await asyncio.wait({doing}, timeout=SILENT_SECONDS)
            if doing.done():
                await self.send_json(200, doing.result())
                return
            await self._begin(200, {"content-type": JSON_TYPE})
            while not doing.done():
                await self._send_piece(b" ", more=True)
                await asyncio.wait({doing}, timeout=ALIVE_SECONDS)
            await self._send_piece(json.dumps(doing.result(), allow_nan=False).encode(), more=False)
        finally:
            doing.cancel()
            await asyncio.wait({doing})

    @asynccontextmanager
    async def stream(self, sign: Callable[[], str], fault: Callable[[Failure], str]) -> AsyncGenerator[None]:
        """What is written meanwhile is a stream of events; a sign of life, while nothing is for long.

        It ends with what was last given to `end_with`, so that the caller sees the end together with it; or with what
        `fault` makes of a failure.
        """
        await self._begin(200, STREAM_HEADERS)
        signs = asyncio.ensure_future(self._stay_alive(sign))
        try:
            yield
        except Failure as failure:
            self._last = fault(failure)
        except Gone:
            raise
        except Exception as error:  # a fault of ours: this caller hears of it, the others nothing
            self._last = fault(self.fail(error))
        finally:
            signs.cancel()
        await self._send_piece(self._last.encode(), more=False)

    def fail(self, error: Exception) -> Failure:
        """What is told of a fault in the gateway itself; its log has the rest."""
        log.error("request %s failed", self.id, exc_info=error)
        return Failure(500, f"a fault in the gateway, request {self.id}: {type(error).__name__}")

    async def write(self, text: str) -> None:
        """Some of a stream; nothing if it is empty."""
        if text:
            self._written_at = time.monotonic()
            await self._send_piece(text.encode(), more=True)

    def end_with(self, text: str) -> None:
        """The last of a stream."""
        self._last = text

    async def _stay_alive(self, sign: Callable[[], str]) -> None:
        while True:
            quiet = time.monotonic() - self._written_at
            if quiet < ALIVE_SECONDS:
                await asyncio.sleep(ALIVE_SECONDS - quiet)
                continue
            with contextlib.suppress(Gone):  # whoever writes next hears of it
                await self.write(sign())

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.has_begun = True
        named = {"x-request-id": self.id, "request-id": self.id, **headers}
        await self._send({"type": "http.response.start", "status": status, "headers": headers_of(named)})

    async def _send_piece(self, body: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise Gone from None

    # Callers that go away ---------------------------------------------------------------------------------------------

    async def while_listened_to(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What work gives; it is cancelled, and Gone raised, once the caller has gone. The body has been read."""
        doing = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._wait_until_gone())
        try:
            await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise Gone
        finally:
            for task in (doing, leaving):
                task.cancel()
            await asyncio.wait({doing, leaving})

    async def _wait_until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Exchange], Awaitable[None]]


def event(told: object, name: str = "") -> str:
    """One server-sent event: ASCII alone, since some clients take more than a line feed for the end of a line."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(told, allow_nan=False)}\n\n"


def _too_large() -> Failure:
    return Failure(413, f"the body is larger than {BODY_LIMIT} bytes")


def _failure_at(error: msgspec.ValidationError) -> Failure:
    """msgspec says where: "… - at `$.messages[0].role`"."""
    told, _, place = str(error).partition(" - at `$")
    name = place.rstrip("`").lstrip(".")
    if not name:
        return Failure(400, f"the request is wrong: {told}")
    return Failure(400, f"{name}: {told}", name)

"""One request and its answer, without a server: callers that are slow, silent or gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from swarm.errors import PeerError, RequestError, SwarmError
from swarm.gateway import exchange as module
from swarm.gateway.exchange import Exchange, Gone, event
from swarm.gateway.failures import Failure, anthropic_form, failure_of, openai_form

Message = dict[str, Any]


class Caller:
    """Asks with some messages, then is silent until it leaves; reads until it is told not to."""

    def __init__(self, *asked: Message) -> None:
        self.sent: list[Message] = []
        self.leaves = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._asked = list(asked)

    async def receive(self) -> Message:
        if self._asked:
            return self._asked.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    @property
    def heard(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def exchange(self, headers: list[tuple[bytes, bytes]] | None = None) -> Exchange:
        return Exchange({"type": "http", "headers": headers or []}, self.receive, self.send)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Form(msgspec.Struct):
    number: int


def test_a_body_may_come_in_pieces() -> None:
    async def test() -> None:
        caller = Caller(piece(b'{"num', more=True), piece(b'ber": 5}'))
        assert await caller.exchange().read(Form) == Form(5)

    run(test)


def test_a_body_is_bounded_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_LIMIT", 10)
    monkeypatch.setattr(module, "BODY_SECONDS", 0.05)

    async def test() -> None:
        for caller, status, headers in (
            (Caller(piece(b"x" * 6, more=True), piece(b"x" * 6, more=True)), 413, []),
            (Caller(), 413, [(b"content-length", b"11")]),
            (Caller(piece(b"x", more=True)), 408, []),
        ):
            with pytest.raises(Failure) as caught:
                await caller.exchange(headers).read(Form)
            assert caught.value.status == status
            assert caught.value.headers["connection"] == "close"

    run(test)


def test_a_caller_that_leaves_while_it_asks_is_gone() -> None:
    async def test() -> None:
        caller = Caller(piece(b"{", more=True), {"type": "http.disconnect"})
        with pytest.raises(Gone):
            await caller.exchange().read(Form)

    run(test)


def test_work_ends_once_its_caller_has_gone() -> None:
    async def test() -> None:
        caller, ended = Caller(), asyncio.Event()

        async def work() -> None:
            try:
                caller.leaves.set()
                await asyncio.sleep(60)
            finally:
                ended.set()

        with pytest.raises(Gone):
            await caller.exchange().while_listened_to(work())
        assert ended.is_set()

    run(test)


def test_what_work_gives_or_raises_is_handed_on() -> None:
    async def test() -> None:
        async def fail() -> None:
            raise Failure(400, "no")

        async def give() -> int:
            return 5

        assert await Caller().exchange().while_listened_to(give()) == 5
        with pytest.raises(Failure):
            await Caller().exchange().while_listened_to(fail())

    run(test)


def test_a_caller_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_SECONDS", 0.05)

    async def test() -> None:
        caller = Caller()
        exchange = caller.exchange()

        async def stream() -> None:
            async with exchange.stream(lambda: "", str):
                await exchange.write("a")
                caller.reads.clear()
                await exchange.write("b")

        with pytest.raises(Gone):
            await stream()
        assert caller.heard == b"a"

    run(test)


def test_a_stream_gives_signs_of_life_only_while_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALIVE_SECONDS", 0.2)

    async def test() -> None:
        caller = Caller()
        exchange = caller.exchange()
        async with exchange.stream(lambda: ": alive\n\n", str):
            for _ in range(6):
                await exchange.write("x")
                await asyncio.sleep(0.05)
            assert caller.heard == b"xxxxxx"
            await asyncio.sleep(0.5)
            assert caller.heard.startswith(b"xxxxxx: alive\n\n: alive\n\n")
            exchange.end_with("end")
        assert caller.heard.endswith(b"end")
        assert [message.get("more_body") for message in caller.sent][-1] is False
        assert dict(caller.sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"

    run(test)


@pytest.mark.parametrize("error", [Failure(503, "no chain"), ZeroDivisionError()], ids=["failure", "fault"])
def test_a_stream_that_cannot_go_on_says_so(error: Exception) -> None:
    async def test() -> None:
        caller = Caller()
        async with caller.exchange().stream(lambda: "", lambda failure: f"last words {failure.status}"):
            raise error
        assert caller.heard == f"last words {error.status if isinstance(error, Failure) else 500}".encode()
        assert caller.sent[-1]["more_body"] is False

    run(test)


def test_an_answer_that_takes_long_begins_with_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(module, "ALIVE_SECONDS", 0.05)

    async def give(seconds: float) -> dict[str, int]:
        await asyncio.sleep(seconds)
        if seconds > 0.5:
            raise Failure(503, "no chain")
        return {"found": 5}

    async def test() -> None:
        at_once, late, broken = Caller(), Caller(), Caller()
        await at_once.exchange().send_result(give(0.0))
        assert at_once.heard == b'{"found": 5}'
        await late.exchange().send_result(give(0.3))
        assert late.heard.startswith(b"  ")
        assert json.loads(late.heard) == {"found": 5}
        exchange = broken.exchange()
        with pytest.raises(Failure):
            await exchange.send_result(give(0.6))
        assert exchange.has_begun
        assert broken.heard.strip() == b"", "the connection is cut: nothing is taken for the answer"

    run(test)


def test_an_event_is_one_line_of_ascii() -> None:
    told = event({"text": "a\u2028b\x0bc\u0085d\ne"}, "name")
    name, data, *rest = told.split("\n")
    assert (name, rest) == ("event: name", ["", ""])
    assert told.isascii()
    assert len(told.splitlines()) == 3
    assert json.loads(data.removeprefix("data: ")) == {"text": "a\u2028b\x0bc\u0085d\ne"}


@pytest.mark.parametrize(
    ("error", "status", "retries"),
    [
        (RequestError("no"), 400, False),
        (PeerError("no room", code="KV_FULL"), 429, True),
        (PeerError("too many", code="OVERLOADED"), 429, True),
        (PeerError("what?", code="UNKNOWN_MODEL"), 404, False),
        (PeerError("layer 3 missing", code="NO_ROUTE"), 503, True),
        (SwarmError("ours"), 500, False),
    ],
)
def test_each_error_has_its_status(error: SwarmError, status: int, retries: bool) -> None:
    failure = failure_of(error, 0.25)
    assert failure.status == status
    assert str(error) in failure.message
    assert ("retry-after" in failure.headers) == retries
    told: Any = openai_form(failure)
    assert set(told["error"]) == {"message", "type", "param", "code"}
    told = anthropic_form(failure, "id")
    assert told["request_id"] == "id"


def test_those_who_wait_do_not_all_come_back_at_once() -> None:
    full = PeerError("no room", code="KV_FULL")
    waits = {failure_of(full, jitter / 4).headers["retry-after"] for jitter in range(4)}
    assert len(waits) == 4

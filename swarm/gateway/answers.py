"""Answers of the swarm for tasks of an event loop: what comes of one on the client's thread is handed over here."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from swarm.client.answer import Answer, Piece
from swarm.client.news import Delivered, Failed, Finished, News, RouteTaken
from swarm.client.swarm import Generation, SwarmClient
from swarm.client.transcript import Turn, common_prefix
from swarm.client.why import Why, ask_why, names_of
from swarm.errors import PeerError, SwarmError
from swarm.gateway.failures import failure_of
from swarm.gateway.metrics import Metrics
from swarm.gateway.models import ServedModel
from swarm.gateway.room import bound_tokens, count_free
from swarm.gateway.sessions import RestingSessions
from swarm.messages.sampling import Sampling
from swarm.messages.timings import MOST_TIMINGS
from swarm.plan.routes import describe_route

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One answer that is wanted.

    ids: the prompt. max_tokens: None for as many as there is room for. stops: strings that end it. scores: with each token
    how likely it was, and so many likeliest; None: not. given: how the answer begins; told as if it were drawn. explain: ask
    the nodes where the time of its tokens went.
    """

    ids: Sequence[int]
    max_tokens: int | None
    sampling: Sampling
    stops: Sequence[str] = ()
    ignore_end: bool = False
    scores: int | None = None
    given: Sequence[int] = ()
    explain: bool = False


async def together(works: Iterable[Awaitable[Result]]) -> list[Result]:
    """What each gives; where one fails, the others are ended, and its error raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class NewsInbox:
    """News of another thread for one task, which is woken only where it may be asleep."""

    def __init__(self) -> None:
        """For a task of the loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._news: deque[News] = deque()
        self._has_come = asyncio.Event()

    def put(self, news: News) -> None:
        """From any thread."""
        self._news.append(news)
        if len(self._news) == 1:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                self._loop.call_soon_threadsafe(self._has_come.set)

    async def take(self) -> list[News]:
        """All that has come, once there is some."""
        await self._has_come.wait()
        self._has_come.clear()
        taken: list[News] = []
        while self._news:
            taken.append(self._news.popleft())
        return taken


class Swarm:
    """What answers are made with: a client of the swarm, and its sessions that rest."""

    def __init__(self, client: SwarmClient, metrics: Metrics) -> None:
        self.client = client
        self.metrics = metrics
        self.resting: RestingSessions[Generation] = RestingSessions()
        self.running: list[RunningAnswer] = []

    def begin(self, served: ServedModel, ask: Ask) -> RunningAnswer:
        """An answer, in the session that has the most of its prompt cached. To be closed, whatever happens."""
        now = time.monotonic()
        for generation in self.resting.tire(now):
            generation.close()
        known = self.resting.take(served.card.model, ask.ids)
        generation = self.client.open_generation(served.card) if known is None else known.session
        cached = 0 if known is None else min(common_prefix(known.ids, ask.ids), len(ask.ids) - 1)
        answer = RunningAnswer(self, served, ask, generation, cached)
        self.running.append(answer)
        return answer

    def rest(self, served: ServedModel, generation: Generation, ids: Sequence[int]) -> None:
        """A session's answer is over, and its caches hold these ids."""
        for one in self.resting.rest(generation, served.card.model, ids, time.monotonic()):
            one.close()

    def end_all(self) -> None:
        """The gateway is about to stop: whoever still waits for an answer hears of it."""
        for answer in self.running:
            answer.fail(PeerError("the gateway stops", code="LEAVING"))

    def close(self) -> None:
        for generation in self.resting.drop_all():
            generation.close()


class RunningAnswer:
    """One answer under way.

    cached_tokens: of the prompt, that need not be computed. finish: "stop" or "length" once it is over; rest: the end of the
    text then, which no piece has let out.
    """

    def __init__(self, swarm: Swarm, served: ServedModel, ask: Ask, generation: Generation, cached_tokens: int) -> None:
        self.ask = ask
        self.cached_tokens = cached_tokens
        self.answer = Answer(served.tokenizer, ask.stops)
        self.finish = self.rest = ""
        self.route: RouteTaken | None = None
        self.why: Why | None = None
        self._swarm = swarm
        self._served = served
        self._generation: Generation | None = generation
        self._inbox = NewsInbox()
        self._arrivals: deque[float] = deque(maxlen=MOST_TIMINGS)
        self._noted = swarm.metrics.begin(served.card.name, len(ask.ids), cached_tokens)
        free = count_free(swarm.client.beats, served.card.model, served.card.layers)
        turn = Turn(
            ids=ask.ids,
            max_tokens=bound_tokens(ask.max_tokens, len(ask.ids), served.card.context, free),
            sampling=ask.sampling,
            stop_ids=[] if ask.ignore_end else served.card.end_ids,
            scores=ask.scores,
            given=ask.given,
        )
        generation.begin(turn, self._inbox.put)

    async def wait_for_place(self) -> list[Piece]:
        """Until there is a chain with room for it; what has come by then. Raises Failure if there is none."""
        pieces: list[Piece] = []
        while self.route is None and not self.finish:
            pieces += await self.read()
        return pieces

    async def read(self) -> list[Piece]:
        """What has come since the last time, once something has. Raises Failure if the answer cannot go on."""
        pieces: list[Piece] = []
        for news in await self._inbox.take():
            match news:
                case Delivered(ids, scores):
                    self._note_tokens(len(ids))
                    pieces += self.answer.read(ids, scores)
                    if self.answer.is_stopped:
                        await self._end("stop")
                        break
                case RouteTaken():
                    self._noted.note_route(news.attempts)
                    self.route = news
                case Finished(reason):
                    await self._end(reason)
                case Failed(error):
                    self.close("error")
                    raise failure_of(error, random.random())
        return pieces

    def fail(self, error: SwarmError) -> None:
        """It cannot go on; whoever reads next is told."""
        self._inbox.put(Failed(error))

    def _note_tokens(self, count: int) -> None:
        """So many have come; those that were given are none of the answer's."""
        drawn = len(self.answer.ids) + count - len(self.ask.given)
        if drawn > 0:
            self._noted.note_tokens(min(count, drawn))
        now = time.monotonic()
        last = self._arrivals[-1] if self._arrivals else now
        self._arrivals += [last + (now - last) * (number + 1) / count for number in range(count)]

    def describe(self, *, has_route: bool, has_timings: bool) -> dict[str, Any]:
        """What callers may want to know besides: the chain, and how long it took."""
        told: dict[str, Any] = {}
        if has_route and self.route is not None:
            told["route"] = describe_route(self.route.route)
            told["attempts"] = self.route.attempts
        if has_timings:
            told["timings"] = self._noted.timings()
        if self.why is not None:
            told["why"] = self.why.describe(names_of(self._swarm.client))
        return told

    async def _end(self, reason: str) -> None:
        """It is over: its session rests, for the request that goes on from here."""
        route = self.route
        if self.ask.explain and route is not None:
            arrivals = list(self._arrivals)
            self.why = await asyncio.to_thread(ask_why, self._swarm.client, self._served.card, route, arrivals)
        self.finish = reason
        self.rest = self.answer.finish()
        generation, self._generation = self._generation, None
        assert generation is not None
        ids = [*self.ask.ids, *self.answer.ids]
        if self.answer.is_stopped:
            generation.halt(len(ids))
        self._swarm.rest(self._served, generation, ids)
        self._note_end(reason)

    def _note_end(self, reason: str) -> None:
        self._swarm.running.remove(self)
        self._noted.end(reason)

    def close(self, reason: str = "abort") -> None:
        """Nobody waits for it any more: what it has in the swarm is freed, unless it is over."""
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.close()
            self._note_end(reason)

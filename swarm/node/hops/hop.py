"""One session on one part of this node: its fence, its queue and the outputs that may have to be sent again. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal

from msgspec import Struct

from swarm.messages.sessions import Code, Open, Tail
from swarm.messages.steps import Score, StepSpan, Tokens
from swarm.messages.tensors import WireTensor
from swarm.messages.timings import MOST_TIMINGS, StepTiming
from swarm.models import ModelKey
from swarm.parts import Part
from swarm.wire.events import Asker

LEASE_SECONDS = 4.5
IDLE_SECONDS = 600.0
RETURN_SHARE = 1.5  # of what a step was away last: later than that it is not waited for
# Since its last step here; later a session has come to its end, or its steps take so long that it notices no prompt.
DECODING_SECONDS = 2.0
LEAST_DECODING_SECONDS = 0.3
OVERDUE = 4.0  # times as long as its last step was away, and the next one is not coming
MOST_IDS = 4096  # in one message
MOST_SCORED_IDS = 128  # with how likely they and others were


@dataclass(slots=True)
class Pending:
    """Positions that have arrived and wait to run."""

    position: int
    length: int
    tensor: WireTensor
    is_prompt: bool
    asker: Asker | None  # whom to grant credit; None for this node itself and for the client
    arrived: float
    arrived_length: int  # before the first piece was cut off
    branch: int = 0

    @property
    def stop(self) -> int:
        return self.position + self.length


class Kept(Struct, frozen=True):
    """An output that the next hop has not been proved to have."""

    position: int
    length: int
    tensor: WireTensor
    is_prompt: bool
    sent_at: float = 0.0
    branch: int = 0

    @property
    def stop(self) -> int:
        return self.position + self.length


@dataclass(slots=True, kw_only=True)
class HopSession:
    """A session at one hop. Positions below `cached` are in the cache; those below `accepted` are there or queued."""

    order: Open
    owner: str
    model: ModelKey
    part: Part
    lease: float
    used: float
    kv_bytes: int = 0  # reserved for its cache
    cached: int = 0
    accepted: int = 0
    branch: int = 0  # as in StepSpan
    is_fresh: bool = True  # no step yet in this attempt: the first one may lie below `accepted` and truncates
    is_finished: bool = False
    queue: deque[Pending] = field(default_factory=deque[Pending])
    kept: list[Kept] = field(default_factory=list[Kept])
    ids: list[int] = field(default_factory=list[int])  # the last hop's: every token id so far
    given: list[int] = field(default_factory=list[int])  # those that come next and are not drawn
    scores: list[Score] = field(default_factory=list[Score])  # of the newest ids, where the client wants them
    have: int = 0  # token ids that the client said it holds
    decoded: float = float("-inf")  # when a decode step last ran
    left: float = float("-inf")  # when its output was there
    away_seconds: float = 0.0  # from then until the next step came
    busy_seconds: float = 0.0
    timings: deque[StepTiming] = field(default_factory=lambda: deque[StepTiming](maxlen=MOST_TIMINGS))

    @property
    def key(self) -> tuple[str, int]:
        return self.order.session, self.order.stage

    @property
    def tail(self) -> Tail | None:
        return self.order.tail

    def judge(self, span: StepSpan) -> Code | None:
        """None if the step may be taken, else the code to refuse it with."""
        if span.attempt < self.order.attempt:
            return "STALE"
        if span.attempt > self.order.attempt:
            return "GAP"
        if span.branch < self.branch:
            return "STALE"
        if span.position + span.length > self.order.positions:
            return "TOO_LONG"
        if span.branch > self.branch:
            return None if span.position <= self.accepted else "GAP"
        if span.position == self.accepted or (self.is_fresh and span.position < self.accepted):
            return None
        return "DUPLICATE" if span.position < self.accepted else "GAP"

    def take(self, span: StepSpan, tensor: WireTensor, asker: Asker | None, now: float) -> None:
        """Queue a step that `judge` allowed."""
        if span.branch > self.branch:
            self._go_back(span)
        if self.is_fresh:
            self.cached = span.position
            self.is_fresh = False
        self.accepted = span.position + span.length
        self.is_finished = False
        if not span.is_prompt:
            self.away_seconds = max(0.0, now - self.left) if self.left > float("-inf") else 0.0
            # A sampled token has come round: everything before it has passed every hop.
            self.kept = [kept for kept in self.kept if kept.stop > span.position]
        self.queue.append(
            Pending(span.position, span.length, tensor, span.is_prompt, asker, now, span.length, span.branch)
        )

    def _go_back(self, span: StepSpan) -> None:
        """Forget what waits or was sent from a new branch's first position on; the engine forgets it with its next step."""
        self.branch = span.branch
        self.cached = min(self.cached, span.position)
        self.queue = deque(pending for pending in self.queue if pending.position < span.position)
        if self.queue and self.queue[-1].stop > span.position:
            last = self.queue.pop()
            length = span.position - last.position
            self.queue.append(replace(last, length=length, tensor=last.tensor.rows(0, length)))
        self.kept = [kept for kept in self.kept if kept.stop <= span.position]

    def has_room(self, chunks: int) -> bool:
        """Whether another prompt chunk may be run and sent on, if `chunks` may be on the way to the next hop."""
        return self.tail is not None or sum(kept.is_prompt for kept in self.kept) < chunks

    @property
    def is_waiting(self) -> bool:
        """Whether there are steps that only wait for their turn."""
        return bool(self.queue) and (not self.queue[0].is_prompt or self.has_room(1))

    def find_kept(self, stop: int) -> Kept | None:
        """The chunk of a prompt that ended there, while the next hop may lack it."""
        return next((kept for kept in self.kept if kept.is_prompt and kept.stop == stop), None)

    def take_credit(self, cached: int, branch: int) -> None:
        """The next hop has run everything of a branch below `cached`."""
        self.kept = [kept for kept in self.kept if kept.stop > cached or kept.branch > branch or not kept.is_prompt]

    def cut(self, length: int) -> Pending:
        """The first `length` positions of the queue's head; what is left stays at the head."""
        head = self.queue.popleft()
        if length == head.length:
            return head
        rest = head.tensor.rows(length, head.length)
        self.queue.appendleft(replace(head, position=head.position + length, length=head.length - length, tensor=rest))
        return replace(head, length=length, tensor=head.tensor.rows(0, length))

    def run(self, length: int, now: float) -> Pending:
        """Take the first `length` positions to be computed now."""
        pending = self.cut(length)
        self.used = now
        if not pending.is_prompt:
            self.decoded = now
        return pending

    def settle(self, pending: Pending, seconds: float, now: float) -> None:
        """What ran has been computed, in `seconds`."""
        self.cached = min(pending.stop, self.queue[0].position if self.queue else self.accepted)
        self.used = now
        self.busy_seconds += seconds
        if not pending.is_prompt:
            self.left = now

    def note_timing(self, pending: Pending, asked: float, began: float, now: float) -> None:
        """What ran was computed from `began` on, for which the machine's cores were asked for at `asked`."""
        if not pending.is_prompt:
            queued = max(0.0, asked - pending.arrived)
            waited = began - pending.arrived - queued
            self.timings.append(
                StepTiming(self.order.stage, pending.position, pending.arrived, queued, waited, now - began)
            )

    def is_due(self, most: float, now: float) -> bool:
        """Whether the next step will be here in a moment: it is away no longer than `most`, and not overdue."""
        return self.away_seconds <= most and self._is_awaited(now)

    def is_decoding(self, now: float) -> bool:
        """Whether its answer goes on, and would be held up by another's prompt."""
        if self.is_finished:
            return False
        patience = min(DECODING_SECONDS, max(LEAST_DECODING_SECONDS, OVERDUE * self.away_seconds))
        return bool(self.queue and not self.queue[0].is_prompt) or self.decoded + patience > now

    def returns_within(self, seconds: float, now: float) -> bool:
        """Whether the next step will be here so soon, by when the last one was; not if it is overdue."""
        return self.left + self.away_seconds - now <= seconds and self._is_awaited(now)

    def _is_awaited(self, now: float) -> bool:
        """Whether it is known how long a step is away, and this one is not overdue."""
        return self.away_seconds > 0.0 and now < self.left + RETURN_SHARE * self.away_seconds

    def put_back(self, pending: Pending) -> None:
        """What ran has failed: it waits again."""
        self.queue.appendleft(pending)


def finish_of(hop: HopSession, token: int) -> Literal["", "stop", "length"]:
    """Whether the last hop's answer ends with `token`, and why."""
    assert hop.tail is not None
    if token in hop.tail.stop_ids:
        return "stop"
    return "length" if len(hop.ids) >= hop.tail.limit else ""


def tokens_of(hop: HopSession, start: int) -> Tokens:
    """The last hop's token ids from `start` on, as many as a message holds, for the client."""
    stop = start + (MOST_IDS if hop.order.tail is None or hop.order.tail.scores is None else MOST_SCORED_IDS)
    first = start - (len(hop.ids) - len(hop.scores))  # below 0: of an attempt before this one
    return Tokens(
        session=hop.order.session,
        attempt=hop.order.attempt,
        index=start,
        ids=hop.ids[start:stop],
        finish=finish_of(hop, hop.ids[-1]) if hop.is_finished and stop >= len(hop.ids) else "",
        scores=hop.scores[first : first + stop - start] if hop.scores and first >= 0 else [],
    )


def pages_of(hop: HopSession, start: int) -> list[Tokens]:
    """The same in as many messages as it takes, up to the ids that one could hold by themselves."""
    pages: list[Tokens] = []
    stop = min(len(hop.ids), start + MOST_IDS)
    while start < stop:
        pages.append(tokens_of(hop, start))
        start += len(pages[-1].ids)
    return pages


def are_ids(tensor: WireTensor | None, most: int, vocabulary: int) -> bool:
    """Whether a tensor holds 1 to `most` token ids of a vocabulary."""
    if tensor is None or tensor.dtype != "int32" or len(tensor.shape) != 1 or not 0 < tensor.shape[0] <= most:
        return False
    return len(tensor.data) == 4 * tensor.shape[0] and max(memoryview(tensor.data).cast("I")) < vocabulary

"""Serves sessions: leases, fences, queues, batches, credit, exactly-once delivery.

Owns every session at this node. Decides only: messages and times go in, effects come out. Knows no sockets, threads,
tensors' values or placement.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swarm.errors import RequestError
from swarm.messages import (
    Close,
    Code,
    Credit,
    Open,
    Opened,
    Progress,
    Refused,
    Renew,
    Renewed,
    Resend,
    StepRefused,
    Steps,
    StepSpan,
    Tokens,
    WireTensor,
    ids_of,
    ids_tensor,
)
from swarm.node.batching import Candidate, Pace, choose_steps, chunk_tokens
from swarm.node.effects import Answer, AskTurn, DialData, Effect, Forget, GiveTurn, Run, SendClient, SendPeer
from swarm.node.hops import IDLE_SECONDS, LEASE_SECONDS, HopSession, Kept
from swarm.node.work import Batch, BatchResult, SampleOrder, ServedPart, WorkSpan, packed_rows
from swarm.parts import cell_ranges, parse_part
from swarm.wire.events import Asker

MOST_SESSIONS = 256
CLOSED_SECONDS = 60.0
LINK_SECONDS = 3.0
QUIET_SECONDS = 5.0
DECODING_SECONDS = 2.0  # a session that decoded this recently would notice a long prompt


@dataclass(frozen=True, slots=True)
class _WaitingOpen:
    asker: Asker
    order: Open
    tensor: WireTensor | None
    until: float


@dataclass(frozen=True, slots=True)
class _Tombstone:
    attempt: int
    until: float


class Serving:
    """Every session at this node."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.served: dict[str, ServedPart] = {}
        self.paces: dict[str, Pace] = {}
        self.sessions: dict[tuple[str, int], HopSession] = {}
        self.is_leaving = False
        self.dropped = 0
        self.links: set[str] = set()
        self._running: Batch | None = None
        self._turn: Literal["none", "asked", "held"] = "none"
        self._batch_numbers = itertools.count(1)
        self._orders = itertools.count(1)
        self._arrival: dict[tuple[str, int], int] = {}
        self._waiting: list[_WaitingOpen] = []
        self._tombstones: dict[str, _Tombstone] = {}

    # Parts ------------------------------------------------------------------------------------------------------------

    def serve(self, served: ServedPart) -> None:
        """A part is loaded."""
        self.served[served.model] = served
        self.paces[served.model] = Pace(served.part.layer_count, served.layer_seconds, served.prompt_seconds)

    def withdraw(self, model: str) -> list[Effect]:
        """A part is given up: its sessions end here."""
        self.served.pop(model, None)
        gone = [hop for hop in self.sessions.values() if hop.order.model == model]
        return [effect for hop in gone for effect in self._end(hop)]

    def kv_free(self, model: str) -> int:
        """KV bytes of a model that no session has reserved."""
        served = self.served[model]
        return served.kv_capacity - sum(
            self._kv_bytes(hop.order, hop.part.layer_count)
            for hop in self.sessions.values()
            if hop.order.model == model
        )

    def _kv_bytes(self, order: Open, layer_count: int) -> int:
        return order.positions * layer_count * self.served[order.model].cache_bytes

    @property
    def session_count(self) -> int:
        return len({session for session, _ in self.sessions})

    @property
    def queue_length(self) -> int:
        return sum(len(hop.queue) for hop in self.sessions.values())

    # Opening and closing ----------------------------------------------------------------------------------------------

    def open(self, asker: Asker, order: Open, tensor: WireTensor | None, now: float) -> list[Effect]:
        """Reserve what a session needs and answer Opened, or Refused with the reason and the numbers."""
        try:
            refusal, effects = self._try_open(asker, order, tensor, now)
        except RequestError as error:
            refusal, effects = _refuse(order, "NOT_SERVING", str(error)), []
        if refusal is not None:
            return [*effects, Answer(asker, refusal)]
        return effects

    def _try_open(
        self, asker: Asker, order: Open, tensor: WireTensor | None, now: float
    ) -> tuple[Refused | None, list[Effect]]:
        served = self.served.get(order.model)
        if served is None:
            return _refuse(order, "NOT_SERVING", f"model {order.model} is not served here"), []
        part = parse_part(order.part, served.layers)
        refusal = self._judge_open(asker, order, tensor, served, now)
        if refusal is not None:
            return refusal, []
        known = self.sessions.get((order.session, order.hop))
        if known is not None and known.order.attempt == order.attempt:
            return None, [Answer(asker, _opened(known))]  # asked twice, answered twice
        if order.next != self.node and order.next not in self.links:
            self._waiting.append(_WaitingOpen(asker, order, tensor, now + LINK_SECONDS))
            return None, [DialData(order.next)]
        old = self._find_old(order)
        needed = self._kv_bytes(order, part.layer_count)
        freed = 0 if old is None else self._kv_bytes(old.order, old.part.layer_count)
        effects = self._make_room(order.model, needed - freed, order.session)
        free = self.kv_free(order.model) + freed
        if needed > free:
            message = f"{order.positions} positions need {needed:,} bytes of KV here, {max(free, 0):,} are free"
            return _refuse(order, "KV_FULL", message, retry_seconds=1.0), effects
        hop = HopSession(order=order, owner=asker.node, part=part, lease=now + LEASE_SECONDS, used=now)
        if old is not None:
            del self.sessions[old.key]
            hop.end = hop.accepted = min(order.keep, old.end)
        if order.tail is not None:
            assert tensor is not None
            hop.ids = ids_of(tensor)
            hop.have = len(hop.ids)
        self.sessions[hop.key] = hop
        self._arrival[hop.key] = next(self._orders)
        return None, [*effects, Answer(asker, _opened(hop))]

    def _judge_open(
        self, asker: Asker, order: Open, tensor: WireTensor | None, served: ServedPart, now: float
    ) -> Refused | None:
        part = parse_part(order.part, served.layers)
        if not served.part.covers(part) or len(cell_ranges(part, served.layers)) != 1:
            return _refuse(order, "NOT_SERVING", f'"{order.part}" is not served here, "{served.part}" is')
        if part.end != (order.tail is not None) or part.begin != order.is_first:
            return _refuse(order, "BAD_MESSAGE", f'"{order.part}" does not fit this hop\'s place in the chain')
        if self.is_leaving:
            return _refuse(order, "LEAVING", "this node is shutting down", retry_seconds=1.0)
        stone = self._tombstones.get(order.session)
        if stone is not None and order.attempt <= stone.attempt and now < stone.until:
            return _refuse(order, "CLOSED", "this session was closed")
        mine = [hop for hop in self.sessions.values() if hop.order.session == order.session]
        if any(hop.owner != asker.node for hop in mine):
            return _refuse(order, "NOT_OWNER", "another key opened this session")
        if any(hop.order.attempt > order.attempt for hop in mine):
            return _refuse(order, "STALE", "this session has a later attempt")
        if not mine and len(self.sessions) >= MOST_SESSIONS:
            return _refuse(order, "OVERLOADED", f"{MOST_SESSIONS} sessions are open here", retry_seconds=2.0)
        if order.positions > served.context:
            message = f"{order.positions} positions asked for; the model's context is {served.context}"
            return _refuse(order, "TOO_LONG", message)
        needed = self._kv_bytes(order, part.layer_count)
        if needed > served.kv_capacity:
            message = (
                f"{order.positions} positions need {needed:,} bytes of KV here; "
                f"this node has {served.kv_capacity:,} in all"
            )
            return _refuse(order, "TOO_LONG", message)
        if order.tail is not None and not _are_ids(tensor, order.positions, served.vocabulary):
            return _refuse(order, "BAD_MESSAGE", "the last hop needs the token ids, each below the vocabulary's size")
        return None

    def _find_old(self, order: Open) -> HopSession | None:
        """The session's hop of an earlier attempt whose cache serves the new one as well."""
        for hop in self.sessions.values():
            if (hop.order.session, hop.order.model, hop.order.part) == (order.session, order.model, order.part):
                return hop
        return None

    def _make_room(self, model: str, needed: int, session: str) -> list[Effect]:
        """Evict sessions whose answer is over, longest unused first, until `needed` bytes are free."""
        effects: list[Effect] = []
        idle = [hop for hop in self.sessions.values() if hop.order.model == model and self._is_idle(hop)]
        for hop in sorted(idle, key=lambda hop: hop.used):
            if self.kv_free(model) >= needed:
                break
            if hop.order.session != session:
                effects += self._end(hop)
        return effects

    def _is_idle(self, hop: HopSession) -> bool:
        """Whether a session's answer is over; only the last hop knows for sure, the others judge by silence."""
        renewed = hop.lease - LEASE_SECONDS
        return not hop.queue and not hop.is_running and (hop.is_finished or renewed - hop.used > QUIET_SECONDS)

    def close(self, asker: Asker, message: Close, now: float) -> list[Effect]:
        """Free a session for its owner; late steps and opens of its attempts are refused for a minute."""
        effects: list[Effect] = []
        for hop in [hop for hop in self.sessions.values() if hop.order.session == message.session]:
            if hop.owner == asker.node and hop.order.attempt <= message.attempt:
                effects += self._end(hop)
        self._waiting = [
            waiting
            for waiting in self._waiting
            if (waiting.order.session, waiting.asker.node) != (message.session, asker.node)
        ]
        self._tombstones[message.session] = _Tombstone(message.attempt, now + CLOSED_SECONDS)
        return effects

    def _end(self, hop: HopSession) -> list[Effect]:
        self.sessions.pop(hop.key, None)
        self._arrival.pop(hop.key, None)
        if any(session == hop.order.session for session, _ in self.sessions):
            return []
        return [Forget(hop.order.model, hop.order.session)]

    def link_up(self, node: str, now: float) -> list[Effect]:
        """Our data connection to a node is up: answer the opens that waited for it, send what it may have missed."""
        self.links.add(node)
        ready = [waiting for waiting in self._waiting if waiting.order.next == node]
        self._waiting = [waiting for waiting in self._waiting if waiting.order.next != node]
        effects = [
            effect for waiting in ready for effect in self.open(waiting.asker, waiting.order, waiting.tensor, now)
        ]
        for hop in self.sessions.values():
            if hop.order.next == node:
                effects += self._send_again(hop)
        return effects

    def link_down(self, node: str) -> None:
        self.links.discard(node)

    # Leases -----------------------------------------------------------------------------------------------------------

    def renew(self, asker: Asker, message: Renew, tick: int, now: float) -> list[Effect]:
        """Prolong a session's leases and say where it stands; the last hop sends again what the client seems to miss."""
        hops = [
            hop
            for hop in self.sessions.values()
            if hop.order.session == message.session and hop.owner == asker.node and hop.order.attempt == message.attempt
        ]
        if not hops:
            return [
                Answer(
                    asker,
                    Refused(
                        code="UNKNOWN_SESSION",
                        message="no such session at this attempt",
                        session=message.session,
                        attempt=message.attempt,
                    ),
                )
            ]
        effects: list[Effect] = []
        known = 0
        for hop in hops:
            hop.lease = now + LEASE_SECONDS
            if hop.tail is not None:
                known = len(hop.ids)
                if message.have == hop.have < known:
                    effects.append(SendClient(hop.owner, self._tokens(hop, message.have)))
                hop.have = message.have
        return [
            Answer(
                asker,
                Renewed(
                    session=message.session,
                    attempt=message.attempt,
                    ends={hop.order.hop: hop.end for hop in hops},
                    known=known,
                    tick=tick,
                    busy_seconds=sum(hop.busy_seconds for hop in hops),
                    lost=sorted({hop.order.next for hop in hops} - self.links - {self.node}),
                ),
            ),
            *effects,
        ]

    def sweep(self, now: float) -> list[Effect]:
        """Free what expired."""
        effects: list[Effect] = []
        for hop in list(self.sessions.values()):
            if hop.lease < now or hop.used + IDLE_SECONDS < now:
                effects += self._end(hop)
        for session, stone in list(self._tombstones.items()):
            if stone.until < now:
                del self._tombstones[session]
        late = [waiting for waiting in self._waiting if waiting.until < now]
        self._waiting = [waiting for waiting in self._waiting if waiting.until >= now]
        effects += [
            Answer(
                waiting.asker,
                _refuse(waiting.order, "LINK_DOWN", f"no connection to the next hop, node {waiting.order.next}"),
            )
            for waiting in late
        ]
        return effects

    # Steps ------------------------------------------------------------------------------------------------------------

    def receive_steps(self, asker: Asker, message: Steps, tensor: WireTensor | None, now: float) -> list[Effect]:
        """Take the steps that pass the fence; refuse the others one by one."""
        served = self.served.get(message.model)
        if served is None or tensor is None or not _fits(message, tensor, served):
            return [Answer(asker, Refused(code="BAD_MESSAGE", message="steps do not fit the part served here"))]
        effects: list[Effect] = []
        row = 0
        for span in message.spans:
            rows = tensor if len(message.spans) == 1 else tensor.rows(row, row + span.length)
            row += span.length
            effects += self._receive_step(asker, message, span, rows, now)
        return effects + self.pump(now)

    def _receive_step(self, asker: Asker, message: Steps, span: StepSpan, rows: WireTensor, now: float) -> list[Effect]:
        hop = self.sessions.get((span.session, span.hop))
        if hop is None or hop.order.part != message.part or hop.order.model != message.model:
            self.dropped += 1
            return [Answer(asker, _refuse_step(span, "UNKNOWN_SESSION", 0))]
        from_client = span.is_prompt and hop.order.is_first and asker.node == hop.owner
        if not from_client and asker.node != hop.order.previous:
            self.dropped += 1
            return [Answer(asker, _refuse_step(span, "NOT_OWNER", 0))]
        code = hop.judge(span)
        if code is None:
            hop.take(span, rows, None if from_client else asker)
            hop.used = now
            self._arrival[hop.key] = next(self._orders)
            return []
        self.dropped += 1
        effects: list[Effect] = [Answer(asker, _refuse_step(span, code, hop.accepted))]
        if code == "DUPLICATE":
            if span.is_prompt and not from_client and span.position + span.length <= hop.end:
                effects.append(Answer(asker, Credit(items=[_progress(hop)])))
            effects += self._send_again(hop)
        return effects

    def step_refused(self, node: str, message: StepRefused) -> list[Effect]:
        """The next hop did not run a step of ours: after GAP it lacks something that we keep."""
        effects: list[Effect] = []
        if message.code == "GAP":
            for hop in self.sessions.values():
                if _is_hop_before(hop, node, message.session, message.attempt):
                    effects += self._send_again(hop)
        return effects

    def take_credit(self, node: str, message: Credit, now: float) -> list[Effect]:
        for item in message.items:
            for hop in self.sessions.values():
                if _is_hop_before(hop, node, item.session, item.attempt):
                    hop.take_credit(item.end)
        return self.pump(now)

    def resend(self, asker: Asker, message: Resend) -> list[Effect]:
        """The client sees no progress and finds this node ahead."""
        return [
            effect
            for hop in self.sessions.values()
            if (hop.order.session, hop.order.attempt, hop.owner) == (message.session, message.attempt, asker.node)
            for effect in self._send_again(hop)
        ]

    def _send_again(self, hop: HopSession) -> list[Effect]:
        if hop.tail is None:
            return [self._send_steps([hop], [kept], kept.tensor) for kept in hop.kept if hop.order.next != self.node]
        effects: list[Effect] = []
        if hop.have < len(hop.ids):
            effects.append(SendClient(hop.owner, self._tokens(hop, hop.have)))
        if not hop.is_finished and hop.end and hop.end == len(hop.ids) - 1 and hop.order.next != self.node:
            kept = self._next_id(hop)
            effects.append(self._send_steps([hop], [kept], kept.tensor))
        return effects

    # Running ----------------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> list[Effect]:
        """Ask for a turn at computing if there is work and none is asked for."""
        del now
        if self._turn != "none" or not any(self._is_ready(hop) for hop in self.sessions.values()):
            return []
        self._turn = "asked"
        return [AskTurn()]

    def turn_taken(self, now: float) -> list[Effect]:
        """Run what waits now; more may have arrived since the turn was asked for, and joins the batch."""
        self._turn = "held"
        ready = [hop for hop in self.sessions.values() if self._is_ready(hop)]
        candidates = [
            Candidate(
                hop.key,
                (hop.order.model, hop.order.part),
                self._arrival[hop.key],
                hop.queue[0].length,
                hop.queue[0].is_prompt,
                can_cut=hop.order.is_first,
            )
            for hop in ready
        ]
        if not candidates:
            self._turn = "none"
            return [GiveTurn()]
        work = [
            (self.sessions[key], length) for key, length in choose_steps(candidates, self._prompt_tokens(ready, now))
        ]
        work.sort(key=lambda item: (item[0].order.next, item[0].order.next_part))
        batch = self._make_batch(work, now)
        self._running = batch
        return [Run(batch)]

    @staticmethod
    def _is_ready(hop: HopSession) -> bool:
        return bool(hop.queue) and not hop.is_running and (not hop.queue[0].is_prompt or hop.has_room())

    def _prompt_tokens(self, ready: Sequence[HopSession], now: float) -> int:
        """How much of the waiting prompts may run now without stalling those who decode."""
        prompts = [hop for hop in ready if hop.queue[0].is_prompt]
        if not prompts:
            return 0
        pace = self.paces[prompts[0].order.model]
        is_noticed = any(hop.decoded + DECODING_SECONDS > now for hop in self.sessions.values())
        return chunk_tokens(pace.token_seconds, pace.decode_seconds if is_noticed else None)

    def _make_batch(self, work: Sequence[tuple[HopSession, int]], now: float) -> Batch:
        spans: list[WorkSpan] = []
        inputs: list[WireTensor] = []
        for hop, length in work:
            pending = hop.cut(length)
            hop.is_running = True
            hop.used = now
            if not pending.is_prompt:
                hop.decoded = now
            stop = pending.position + pending.length
            spans.append(
                WorkSpan(
                    hop.order.session,
                    hop.order.attempt,
                    hop.order.hop,
                    pending.position,
                    pending.length,
                    hop.order.positions,
                    pending.is_prompt,
                    _sample_order(hop) if hop.tail is not None and stop == len(hop.ids) else None,
                )
            )
            inputs.append(pending.tensor)
            hop.grantee = pending.asker if pending.is_prompt else None
        first = work[0][0]
        groups: tuple[int, ...] = ()
        if first.tail is None:
            runs = itertools.groupby(work, key=lambda item: (item[0].order.next, item[0].order.next_part))
            groups = tuple(sum(1 for _ in run) for _, run in runs)
        return Batch(next(self._batch_numbers), first.order.model, first.part, tuple(spans), tuple(inputs), groups)

    def batch_done(self, result: BatchResult, now: float) -> list[Effect]:
        """Send a batch's outputs on, its tokens to clients, credit to the hops before; ask for the next turn."""
        batch, self._running = self._running, None
        self._turn = "none"
        assert batch is not None
        assert batch.number == result.number
        pace = self.paces.get(batch.model)
        if pace is not None:
            prompts = sum(span.length for span in batch.spans if span.is_prompt)
            pace.note(sum(not span.is_prompt for span in batch.spans), prompts, result.seconds)
        share = result.seconds / len(batch.spans)
        current = [self._settle(span, share, now) for span in batch.spans]
        effects = self._grant_credit(current)
        if batch.groups:
            effects = [*self._forward(batch, result, current, now), *effects]
        else:
            effects = [*self._deliver(batch, result, current, now), *effects]
        return [*effects, GiveTurn(), *self.pump(now)]

    def batch_failed(self, message: str) -> list[Effect]:
        """A batch could not be computed: its sessions end here, and their clients are told."""
        batch, self._running = self._running, None
        assert batch is not None
        self._turn = "none"
        effects: list[Effect] = [GiveTurn()]
        for span in batch.spans:
            hop = self.sessions.get((span.session, span.hop))
            if hop is not None:
                refusal = _refuse(hop.order, "FAILED", message)
                effects += [SendClient(hop.owner, refusal), *self._end(hop)]
        return effects

    def _settle(self, span: WorkSpan, seconds: float, now: float) -> HopSession | None:
        """The hop that a span was run for, moved on; None if the session has ended or changed chains meanwhile."""
        hop = self.sessions.get((span.session, span.hop))
        if hop is None or hop.order.attempt != span.attempt:
            return None
        hop.is_running = False
        hop.end = span.position + span.length
        hop.used = now
        hop.busy_seconds += seconds
        return hop

    def _grant_credit(self, current: Sequence[HopSession | None]) -> list[Effect]:
        grants: dict[Asker, list[Progress]] = {}
        for hop in current:
            if hop is not None and hop.grantee is not None:
                grants.setdefault(hop.grantee, []).append(_progress(hop))
        return [Answer(asker, Credit(items=items)) for asker, items in grants.items()]

    def _forward(
        self, batch: Batch, result: BatchResult, current: Sequence[HopSession | None], now: float
    ) -> list[Effect]:
        """Hidden states to the next hops: one message a hop, rows of ended sessions left out."""
        effects: list[Effect] = []
        rows = packed_rows(batch.spans)
        first = 0
        for output, count in zip(result.outputs, batch.groups, strict=True):
            offset = rows[first][0]
            hops: list[HopSession] = []
            kept: list[Kept] = []
            for index in range(first, first + count):
                hop, span = current[index], batch.spans[index]
                if hop is not None:
                    tensor = output.rows(rows[index][0] - offset, rows[index][1] - offset)
                    hop.kept.append(Kept(span.position, span.length, tensor, span.is_prompt))
                    hops.append(hop)
                    kept.append(hop.kept[-1])
            first += count
            if len(hops) == count and hops[0].order.next != self.node:
                effects.append(self._send_steps(hops, kept, output))
                continue
            for hop, one in zip(hops, kept, strict=True):
                effects += self._pass_on(hop, one, now)
        return effects

    def _pass_on(self, hop: HopSession, kept: Kept, now: float) -> list[Effect]:
        """One session's output to its next hop, which may be this node itself."""
        if hop.order.next != self.node:
            return [self._send_steps([hop], [kept], kept.tensor)]
        following = self.sessions.get((hop.order.session, _next_index(hop)))
        span = _step_span(hop, kept)
        if following is None or following.judge(span):
            return []
        following.take(span, kept.tensor, None)
        self._arrival[following.key] = next(self._orders)
        hop.take_credit(kept.stop)
        return []

    def _send_steps(self, hops: Sequence[HopSession], kept: Sequence[Kept], tensor: WireTensor) -> Effect:
        order = hops[0].order
        spans = [_step_span(hop, one) for hop, one in zip(hops, kept, strict=True)]
        return SendPeer(order.next, "data", Steps(model=order.model, part=order.next_part, spans=spans), tensor)

    def _deliver(
        self, batch: Batch, result: BatchResult, current: Sequence[HopSession | None], now: float
    ) -> list[Effect]:
        """Sampled tokens: to the clients, and as the next steps to the first hops."""
        effects: list[Effect] = []
        ring: dict[tuple[str, str], list[HopSession]] = {}
        sampled = iter(result.sampled)
        for span, hop in zip(batch.spans, current, strict=True):
            if span.sample is None:
                continue
            token = next(sampled)
            if hop is None or hop.tail is None or len(hop.ids) != span.sample.position:
                continue
            hop.ids.append(token)
            finish = _finish(hop, token)
            hop.is_finished = bool(finish)
            effects.append(SendClient(hop.owner, self._tokens(hop, len(hop.ids) - 1)))
            if not finish:
                if hop.order.next == self.node:
                    self._pass_on(hop, self._next_id(hop), now)
                else:
                    ring.setdefault((hop.order.next, hop.order.next_part), []).append(hop)
        for hops in ring.values():
            steps = [self._next_id(hop) for hop in hops]
            ids = ids_tensor([hop.ids[-1] for hop in hops])
            effects.insert(0, self._send_steps(hops, steps, ids))
        return effects

    def _next_id(self, hop: HopSession) -> Kept:
        """The newest token id as the ring's next step."""
        return Kept(len(hop.ids) - 1, 1, ids_tensor(hop.ids[-1:]), is_prompt=False)

    def _tokens(self, hop: HopSession, start: int) -> Tokens:
        return Tokens(
            session=hop.order.session,
            attempt=hop.order.attempt,
            index=start,
            ids=hop.ids[start : start + 4096],
            finish=_finish(hop, hop.ids[-1]) if hop.is_finished else "",
        )


def _next_index(hop: HopSession) -> int:
    return 0 if hop.tail is not None else hop.order.hop + 1


def _step_span(hop: HopSession, kept: Kept) -> StepSpan:
    order = hop.order
    return StepSpan(order.session, order.attempt, _next_index(hop), kept.position, kept.length, kept.is_prompt)


def _progress(hop: HopSession) -> Progress:
    return Progress(hop.order.session, hop.order.attempt, hop.order.hop, hop.end)


def _is_hop_before(hop: HopSession, node: str, session: str, attempt: int) -> bool:
    return (hop.order.next, hop.order.session, hop.order.attempt) == (node, session, attempt)


def _finish(hop: HopSession, token: int) -> Literal["", "stop", "length"]:
    assert hop.tail is not None
    if token in hop.tail.stop_ids:
        return "stop"
    return "length" if len(hop.ids) >= hop.tail.limit else ""


def _sample_order(hop: HopSession) -> SampleOrder:
    assert hop.tail is not None
    sampling = hop.tail.sampling
    ids = tuple(hop.ids) if sampling.repetition_penalty != 1.0 else None
    return SampleOrder(sampling, len(hop.ids), ids)


def _opened(hop: HopSession) -> Opened:
    return Opened(session=hop.order.session, attempt=hop.order.attempt, hop=hop.order.hop, end=hop.end)


def _refuse(order: Open, code: Code, message: str, retry_seconds: float = 0.0) -> Refused:
    return Refused(
        code=code,
        message=message[:500],
        session=order.session,
        attempt=order.attempt,
        hop=order.hop,
        retry_seconds=retry_seconds,
    )


def _refuse_step(span: StepSpan, code: Code, end: int) -> StepRefused:
    return StepRefused(session=span.session, attempt=span.attempt, hop=span.hop, code=code, end=end)


def _fits(message: Steps, tensor: WireTensor, served: ServedPart) -> bool:
    """Whether a packed tensor holds what the spans and the part call for."""
    tokens = sum(span.length for span in message.spans)
    if not tensor.shape or tensor.shape[0] != tokens:
        return False
    try:
        takes_ids = parse_part(message.part, served.layers).begin
    except RequestError:
        return False
    if takes_ids:
        return _are_ids(tensor, tokens, served.vocabulary)
    return len(tensor.shape) == 2 and tensor.shape[1] == served.hidden and tensor.dtype in served.dtypes


def _are_ids(tensor: WireTensor | None, most: int, vocabulary: int) -> bool:
    if tensor is None or tensor.dtype != "int32" or len(tensor.shape) != 1 or not 0 < tensor.shape[0] <= most:
        return False
    return all(0 <= token < vocabulary for token in ids_of(tensor))

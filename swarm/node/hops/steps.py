"""Runs the sessions' steps: fences, batches, credit, exactly-once delivery.

Decides only: messages, times and finished batches go in, effects come out. Who may have a session is sessions.py's affair,
whose steps run next schedule.py's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from swarm.messages.sessions import Refused, Resend
from swarm.messages.steps import Credit, Score, StepRefused, Steps, StepSpan
from swarm.messages.tensors import WireTensor, ids_tensor
from swarm.node.batches import BatchResult, Drawn, ServedPart
from swarm.node.effects import Answer, AskCores, Effect, GiveCores, Report, Run, SendClient
from swarm.node.hops.admission import refuse
from swarm.node.hops.hop import HopSession, Kept, are_ids, finish_of, pages_of
from swarm.node.hops.outgoing import grant_credit, next_id, next_stage, progress, refuse_step, send_steps, step_span
from swarm.node.hops.place import Place
from swarm.node.hops.running import Running, start_batch
from swarm.node.hops.schedule import Schedule
from swarm.node.hops.sessions import SessionTable
from swarm.parts import Part
from swarm.wire.events import Asker

MISFIT = Refused(code="BAD_MESSAGE", message="steps do not fit the part served here")


class StepRunner:
    """The steps of the sessions in a table."""

    def __init__(self, table: SessionTable) -> None:
        self.dropped = 0  # steps that did not pass their fence
        self.turns_waited = 0  # batches before which another node of the machine had the cores
        self.resent = 0  # outputs sent again because they may have been lost
        self._table = table
        self._schedule = Schedule(table)
        self._crossings: dict[str, tuple[float, int]] = {}
        self._place = Place()
        self._has_yielded = False
        self._batch_numbers = itertools.count(1)

    @property
    def is_computing(self) -> bool:
        """Whether a batch is under way."""
        return self._table.running is not None

    @property
    def passed_over(self) -> int:
        """Batches computed although another node on this machine had the cores, and did not go on."""
        return self._place.passed_over

    # Steps ------------------------------------------------------------------------------------------------------------

    def receive_steps(self, asker: Asker, message: Steps, tensor: WireTensor | None, now: float) -> list[Effect]:
        """Take the steps that pass the fence; refuse the others one by one."""
        tokens = sum(span.length for span in message.spans)
        if tensor is None or tensor.shape[:1] != (tokens,):
            return [Answer(asker, MISFIT)]
        effects: list[Effect] = []
        row = 0
        for span in message.spans:
            rows = tensor if span.length == tokens else tensor.rows(row, row + span.length)
            row += span.length
            hop = self._table.sessions.get((span.session, span.stage))
            if hop is None or hop.order.part != message.part or hop.order.model != message.model:
                self.dropped += 1
                effects.append(Answer(asker, refuse_step(span, "UNKNOWN_SESSION", 0)))
            elif not _is_input(rows, hop.part, self._table.served[hop.model]):
                effects.append(Answer(asker, MISFIT))
            else:
                effects += self._receive_step(asker, hop, span, rows, now)
        return effects + self.pump(now)

    def _receive_step(
        self, asker: Asker, hop: HopSession, span: StepSpan, rows: WireTensor, now: float
    ) -> list[Effect]:
        from_client = span.is_prompt and hop.order.is_first and asker.node == hop.owner
        if not from_client and asker.node != hop.order.previous:
            self.dropped += 1
            return [Answer(asker, refuse_step(span, "NOT_OWNER", 0))]
        code = hop.judge(span)
        if code is None:
            hop.take(span, rows, None if from_client else asker, now)
            hop.used = now
            self._schedule.add(hop)
            return []
        self.dropped += 1
        effects: list[Effect] = [Answer(asker, refuse_step(span, code, hop.accepted))]
        if code == "DUPLICATE":
            if span.is_prompt and not from_client and span.position + span.length <= hop.cached:
                effects.append(Answer(asker, Credit(items=[progress(hop)])))
            effects += self._send_again(hop)
        return effects

    def step_refused(self, node: str, message: StepRefused) -> list[Effect]:
        """The next hop did not run a step of ours: after GAP it lacks something that we keep."""
        effects: list[Effect] = []
        if message.code == "GAP":
            for hop in self._table.hops_of(message.session):
                if _is_hop_before(hop, node, message.attempt):
                    effects += self._send_again(hop)
        return effects

    def take_credit(self, node: str, message: Credit, now: float) -> list[Effect]:
        for item in message.items:
            for hop in self._table.hops_of(item.session):
                if _is_hop_before(hop, node, item.attempt):
                    kept = hop.find_kept(item.cached)
                    if kept is not None and item.held_seconds:
                        self._crossings[node] = now - kept.sent_at - item.held_seconds, len(kept.tensor.data)
                    hop.take_credit(item.cached, item.branch)
        return self.pump(now)

    def take_crossings(self) -> Mapping[str, tuple[float, int]]:
        """Since the last call: node → how long the last prompt chunk and its credit were on the way, and its bytes."""
        crossings, self._crossings = self._crossings, {}
        return crossings

    def resend_to(self, node: str) -> list[Effect]:
        """Our connection to a node is back: send what it may have missed."""
        hops = [hop for hop in self._table.sessions.values() if hop.order.next == node]
        return [effect for hop in hops for effect in self._send_again(hop)]

    def resend(self, asker: Asker, message: Resend) -> list[Effect]:
        """The client sees no progress and finds this node ahead."""
        return [
            effect
            for hop in self._table.hops_of(message.session)
            if (hop.order.attempt, hop.owner) == (message.attempt, asker.node)
            for effect in self._send_again(hop)
        ]

    def _send_again(self, hop: HopSession) -> list[Effect]:
        effects = self._find_again(hop)
        self.resent += len(effects)
        return effects

    def _find_again(self, hop: HopSession) -> list[Effect]:
        """What the next hop, or the client, has not been proved to have."""
        if hop.tail is None:
            return [send_steps([hop], [kept], kept.tensor) for kept in hop.kept if hop.order.next != self._table.node]
        effects: list[Effect] = []
        if hop.have < len(hop.ids):
            effects += [SendClient(hop.owner, page) for page in pages_of(hop, hop.have)]
        is_drawn_next = not hop.is_finished and not hop.given and hop.cached > 0 and hop.cached == len(hop.ids) - 1
        if is_drawn_next and hop.order.next != self._table.node:
            kept = next_id(hop)
            effects.append(send_steps([hop], [kept], kept.tensor))
        return effects

    # Running ----------------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> list[Effect]:
        """Ask for the cores if there is work and they are not asked for; compute without them where that takes too long."""
        if self._table.running is not None:
            return []
        ready = self._schedule.find_ready(now)
        if not ready or self._schedule.gathers(ready, now):
            return []
        if self._place.is_away:
            self._place.wait(now)
            return [AskCores()]
        if not self._place.is_overdue(now):
            return []
        said = [Report("passed-over", {})] if self._place.pass_over() else []
        return [*said, self._run(ready, now)]

    def cores_taken(self, was_contended: bool, now: float) -> list[Effect]:
        """Run what waits now; more may have arrived since the cores were asked for, and joins the batch.

        Where nodes share a machine, one that lacks the steps of some sessions lets the others go first, once: what they
        compute comes here and is computed together, and reading the weights once for all is what counts.
        """
        self._place.take()
        self.turns_waited += was_contended
        if self._table.running is not None:  # without them: they are given on when that is done
            return []
        ready = self._schedule.find_ready(now)
        if was_contended and not self._has_yielded and ready and self._schedule.misses_some(ready, now):
            self._has_yielded = True
            self._place.wait(now)
            return [GiveCores(), AskCores()]
        self._has_yielded = False
        return [self._run(ready, now)] if ready else self._give_cores()

    def _give_cores(self) -> list[Effect]:
        """Let another node on this machine compute, if it was this one's turn."""
        if not self._place.is_holding:
            return []
        self._place.leave()
        return [GiveCores()]

    def _run(self, ready: Sequence[HopSession], now: float) -> Effect:
        work = self._schedule.choose(ready, now)
        self._table.running = running = start_batch(next(self._batch_numbers), work, self._place.asked_at, now)
        return Run(running.batch)

    def batch_done(self, result: BatchResult, now: float) -> Iterator[Effect]:
        """Send a batch's outputs on, its tokens to clients, credit to the hops before; ask for the cores again.

        One effect at a time: what the next hop waits for leaves before the rest is decided.
        """
        running = self._take_running()
        batch = running.batch
        assert batch.number == result.number
        share = result.seconds / len(batch.spans)
        current = running.find_current(self._table.sessions)
        done = [(hop, one) for hop, one in zip(current, running.pendings, strict=True) if hop is not None]
        for hop, pending in done:
            hop.settle(pending, share, now)
            hop.note_timing(pending, running.asked, running.began, now)
            self._schedule.clear(hop)
        if batch.groups:
            yield from self._forward(running, result, current, now)
        else:
            yield from self._deliver(running, result, current, now)
        yield from grant_credit(done, now)
        pace = self._table.paces.get(batch.model)
        if pace is not None:
            pace.note(batch, result)
        self._place.note_batch(result.seconds)
        yield from self._give_cores()
        yield from self.pump(now)

    def batch_failed(self, message: str) -> list[Effect]:
        """A batch could not be computed. Its steps run again one by one; one that fails alone ends its session here.

        The client is told why, and goes on over another chain if there is one.
        """
        running = self._take_running()
        effects = self._give_cores()
        for hop, pending in zip(running.find_current(self._table.sessions), running.pendings, strict=True):
            if hop is None:
                continue
            if len(running.hops) > 1:
                hop.put_back(pending)
                self._schedule.suspect(hop)
                continue
            refusal = refuse(hop.order, "FAILED", f'"{hop.part}" fails: {message}')
            effects += [SendClient(hop.owner, refusal, "control"), *self._table.forget(hop)]
        return effects

    def _take_running(self) -> Running:
        running, self._table.running = self._table.running, None
        assert running is not None
        return running

    def _forward(
        self, running: Running, result: BatchResult, current: Sequence[HopSession | None], now: float
    ) -> Iterator[Effect]:
        """Hidden states to the next hops: one message a hop, rows of ended sessions left out."""
        first = 0
        for output, count in zip(result.outputs, running.batch.groups, strict=True):
            hops: list[HopSession] = []
            kept: list[Kept] = []
            row = 0
            for index in range(first, first + count):
                hop, pending = current[index], running.pendings[index]
                if hop is not None:
                    rows = output if count == 1 else output.rows(row, row + pending.length)
                    kept.append(Kept(pending.position, pending.length, rows, pending.is_prompt, now, pending.branch))
                    hops.append(hop)
                    hop.kept.append(kept[-1])
                row += pending.length
            first += count
            if len(hops) == count and hops[0].order.next != self._table.node:
                yield send_steps(hops, kept, output)
                continue
            for hop, one in zip(hops, kept, strict=True):
                yield from self._pass_on(hop, one, now)

    def _pass_on(self, hop: HopSession, kept: Kept, now: float) -> list[Effect]:
        """One session's output to its next hop, which may be this node itself."""
        if hop.order.next != self._table.node:
            return [send_steps([hop], [kept], kept.tensor)]
        following = self._table.sessions.get((hop.order.session, next_stage(hop)))
        span = step_span(hop, kept)
        if following is None or following.judge(span):
            return []
        following.take(span, kept.tensor, None, now)
        self._schedule.add(following)
        hop.take_credit(kept.stop, kept.branch)
        return []

    def _deliver(
        self, running: Running, result: BatchResult, current: Sequence[HopSession | None], now: float
    ) -> Iterator[Effect]:
        """Tokens: those that were drawn as the next steps to the first hops, and all to the clients."""
        ring: dict[tuple[str, str], list[HopSession]] = {}
        told: list[tuple[HopSession, int]] = []
        drawn = iter(result.drawn)
        for span, pending, hop in zip(running.batch.spans, running.pendings, current, strict=True):
            if span.want is None:
                continue
            one = next(drawn)
            if hop is None or hop.tail is None or len(hop.ids) != span.want.position or pending.branch != hop.branch:
                continue
            told.append((hop, len(hop.ids)))
            _note_drawn(hop, one)
            if not hop.is_finished and not hop.given:
                ring.setdefault((hop.order.next, hop.order.next_part), []).append(hop)
        for (node, _), hops in ring.items():
            steps = [next_id(hop) for hop in hops]
            if node == self._table.node:
                for hop, step in zip(hops, steps, strict=True):
                    yield from self._pass_on(hop, step, now)
            else:
                ids = steps[0].tensor if len(steps) == 1 else ids_tensor([hop.ids[-1] for hop in hops])
                yield send_steps(hops, steps, ids)
        for hop, start in told:
            for page in pages_of(hop, start):
                yield SendClient(hop.owner, page)


def _note_drawn(hop: HopSession, drawn: Drawn) -> None:
    """The next tokens of the last hop's session are known: those drawn, or as many of those given."""
    new = hop.given[: len(drawn.ids)] or drawn.ids
    hop.ids += new
    del hop.given[: len(new)]
    for row, log_probability in enumerate(drawn.given):
        hop.scores.append(Score(log_probability, list(drawn.top[row]) if drawn.top else []))
    hop.is_finished = bool(finish_of(hop, hop.ids[-1]))


def _is_hop_before(hop: HopSession, node: str, attempt: int) -> bool:
    return (hop.order.next, hop.order.attempt) == (node, attempt)


def _is_input(rows: WireTensor, part: Part, served: ServedPart) -> bool:
    """Whether a session's rows are what the part takes: ids for begin, else hidden states."""
    if part.begin:
        return are_ids(rows, rows.shape[0], served.vocabulary)
    return rows.shape[1:] == (served.hidden,) and rows.dtype in served.dtypes

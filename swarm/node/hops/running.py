"""A batch under way: what it computes, and for which sessions. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.messages.sampling import Sampling
from swarm.messages.sessions import Tail
from swarm.messages.tensors import WireTensor
from swarm.node.batches import DRAWN, Batch, Want, WorkSpan
from swarm.node.hops.hop import HopSession, Pending


@dataclass(frozen=True, slots=True)
class Running:
    """hops, pendings: one for each of the batch's spans. asked: when the machine's cores were asked for."""

    batch: Batch
    hops: tuple[HopSession, ...]
    pendings: tuple[Pending, ...]
    asked: float
    began: float

    def find_current(self, sessions: Mapping[tuple[str, int], HopSession]) -> list[HopSession | None]:
        """The sessions that it computes for; None for one that has ended or changed chains meanwhile."""
        return [hop if sessions.get(hop.key) is hop else None for hop in self.hops]

    def computes_for(self, hop: HopSession) -> bool:
        return any(one is hop for one in self.hops)


def start_batch(number: int, work: Sequence[tuple[HopSession, int]], asked: float, now: float) -> Running:
    """Take positions out of sessions' queues, to be computed together.

    work: sessions of one part, and how many of each. asked: as in Running.
    """
    spans: list[WorkSpan] = []
    inputs: list[WireTensor] = []
    pendings: list[Pending] = []
    for hop, length in work:
        pending = hop.run(length, now)
        spans.append(
            WorkSpan(
                hop.order.session,
                hop.order.attempt,
                hop.order.stage,
                pending.position,
                pending.length,
                hop.order.positions,
                pending.is_prompt,
                _want(hop, hop.tail, pending) if hop.tail is not None else None,
            )
        )
        inputs.append(pending.tensor)
        pendings.append(pending)
    first = work[0][0]
    groups: tuple[int, ...] = ()
    if first.tail is None:
        runs = itertools.groupby(work, key=lambda item: (item[0].order.next, item[0].order.next_part))
        groups = tuple(sum(1 for _ in run) for _, run in runs)
    batch = Batch(number, first.model, first.part, tuple(spans), tuple(inputs), groups)
    return Running(batch, tuple(hop for hop, _ in work), tuple(pendings), asked, now)


def _want(hop: HopSession, tail: Tail, pending: Pending) -> Want | None:
    """The next token, and how likely it is if the client wants to know; or how likely those are that are given."""
    position = len(hop.ids)
    if hop.given:
        rows = min(pending.stop - position + 1, len(hop.given))
        given = tuple(hop.given[:rows])
        return Want(Sampling(), position, None, rows, given, tail.scores or 0) if rows > 0 else None
    if pending.stop != position:
        return None
    ids = hop.ids if tail.sampling.repetition_penalty != 1.0 else None
    if tail.scores is None:
        return Want(tail.sampling, position, ids)
    return Want(tail.sampling, position, ids, given=(DRAWN,), top=tail.scores)

"""What a hop says to the one after it and to the one before. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.messages.sessions import Code
from swarm.messages.steps import Credit, Progress, StepRefused, Steps, StepSpan
from swarm.messages.tensors import WireTensor, ids_tensor
from swarm.node.effects import Answer, Effect, SendPeer
from swarm.node.hops.hop import HopSession, Kept, Pending
from swarm.wire.events import Asker


def send_steps(hops: Sequence[HopSession], kept: Sequence[Kept], tensor: WireTensor) -> Effect:
    """Outputs of sessions with the same next hop, in one message. tensor: all of them, packed in order."""
    order = hops[0].order
    spans = [step_span(hop, one) for hop, one in zip(hops, kept, strict=True)]
    return SendPeer(order.next, "data", Steps(model=order.model, part=order.next_part, spans=spans), tensor)


def step_span(hop: HopSession, kept: Kept) -> StepSpan:
    """An output as the next hop's step."""
    order, stage = hop.order, next_stage(hop)
    return StepSpan(order.session, order.attempt, stage, kept.position, kept.length, kept.is_prompt, kept.branch)


def next_stage(hop: HopSession) -> int:
    """The next hop's stage; after the last comes the first."""
    return 0 if hop.tail is not None else hop.order.stage + 1


def next_id(hop: HopSession) -> Kept:
    """The newest token id as the ring's next step."""
    return Kept(len(hop.ids) - 1, 1, ids_tensor(hop.ids[-1:]), is_prompt=False, branch=hop.branch)


def progress(hop: HopSession, held_seconds: float = 0.0) -> Progress:
    """How far a session is here."""
    return Progress(hop.order.session, hop.order.attempt, hop.order.stage, hop.cached, held_seconds, hop.branch)


def grant_credit(done: Sequence[tuple[HopSession, Pending]], now: float) -> list[Effect]:
    """For each chunk of a prompt that has been computed, to the hop that sent it."""
    grants: dict[Asker, list[Progress]] = {}
    for hop, pending in done:
        if pending.is_prompt and pending.asker is not None and pending.branch == hop.branch:
            grants.setdefault(pending.asker, []).append(progress(hop, now - pending.arrived))
    return [Answer(asker, Credit(items=items)) for asker, items in grants.items()]


def refuse_step(span: StepSpan, code: Code, accepted: int) -> StepRefused:
    """Why a step was not taken; the sender goes on from `end`."""
    return StepRefused(session=span.session, attempt=span.attempt, stage=span.stage, code=code, accepted=accepted)

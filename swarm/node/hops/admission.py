"""Who may open a session here: one judge a reason, asked in order; the first that objects gives the answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.messages.sessions import Code, Open, Refused
from swarm.messages.tensors import WireTensor
from swarm.node.batches import ServedPart
from swarm.node.hops.hop import HopSession, are_ids
from swarm.parts import Part
from swarm.wire.events import Asker


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An open, and what this node knows that bears on it.

    mine: this session's hops that are here already. goes_on: one of them serves the new attempt as well; it leaves when its
    client can. draining: what takes no more sessions. is_closed: the session was closed a moment ago. has_place: for one
    more session. needed: bytes of KV. most_kv: that all sessions of the model could ever have here.
    """

    asker: Asker
    order: Open
    part: Part
    tensor: WireTensor | None
    served: ServedPart
    mine: Sequence[HopSession]
    goes_on: bool
    draining: Part
    is_leaving: bool
    is_closed: bool
    has_place: bool
    most_sessions: int
    needed: int
    most_kv: int


Judge = Callable[[Request], Refused | None]


def judge(request: Request) -> Refused | None:
    """Why a session may not be opened; None if it may, once there is room for its KV."""
    return next((refusal for one in JUDGES if (refusal := one(request)) is not None), None)


def refuse(order: Open, code: Code, message: str, retry_seconds: float = 0.0) -> Refused:
    """The answer to an open that cannot be granted."""
    return Refused(
        code=code,
        message=message[:500],
        session=order.session,
        attempt=order.attempt,
        stage=order.stage,
        retry_seconds=retry_seconds,
    )


def _is_served(one: Request) -> Refused | None:
    if one.served.part.covers(one.part) and len(one.part.cell_ranges) == 1:
        return None
    return refuse(one.order, "NOT_SERVING", f'"{one.order.part}" is not served here, "{one.served.part}" is')


def _stays(one: Request) -> Refused | None:
    if one.goes_on or (one.draining & one.part).is_empty():
        return None
    return refuse(one.order, "NOT_SERVING", f'"{one.draining}" is about to be dropped here')


def _fits_its_place(one: Request) -> Refused | None:
    if one.part.end == (one.order.tail is not None) and one.part.begin == one.order.is_first:
        return None
    return refuse(one.order, "BAD_MESSAGE", f'"{one.order.part}" does not fit this hop\'s place in the chain')


def _node_stays(one: Request) -> Refused | None:
    if one.goes_on or not one.is_leaving:
        return None
    return refuse(one.order, "LEAVING", "this node is shutting down", retry_seconds=1.0)


def _is_open(one: Request) -> Refused | None:
    return refuse(one.order, "CLOSED", "this session was closed") if one.is_closed else None


def _is_its_owners(one: Request) -> Refused | None:
    if all(hop.owner == one.asker.node for hop in one.mine):
        return None
    return refuse(one.order, "NOT_OWNER", "another key opened this session")


def _is_latest(one: Request) -> Refused | None:
    if all(hop.order.attempt <= one.order.attempt for hop in one.mine):
        return None
    return refuse(one.order, "STALE", "this session has a later attempt")


def _has_place(one: Request) -> Refused | None:
    if one.has_place:
        return None
    return refuse(one.order, "OVERLOADED", f"{one.most_sessions} sessions are open here", retry_seconds=2.0)


def _fits_the_context(one: Request) -> Refused | None:
    if one.order.positions <= one.served.context:
        return None
    message = f"{one.order.positions} positions asked for; the model's context is {one.served.context}"
    return refuse(one.order, "TOO_LONG", message)


def _fits_the_memory(one: Request) -> Refused | None:
    if one.needed <= one.most_kv:
        return None
    asked = f"{one.order.positions} positions need {one.needed:,} bytes of KV here"
    return refuse(one.order, "TOO_LONG", f"{asked}; this node has {one.most_kv:,} in all")


def _brings_its_ids(one: Request) -> Refused | None:
    if one.order.tail is None:
        return None
    if not are_ids(one.tensor, one.order.positions, one.served.vocabulary):
        return refuse(one.order, "BAD_MESSAGE", "the last hop needs the token ids, each below the vocabulary's size")
    if one.tensor is not None and one.tensor.shape[0] <= one.order.tail.given:
        return refuse(one.order, "BAD_MESSAGE", "a given answer needs a token before it")
    return None


JUDGES: Sequence[Judge] = (
    _is_served,
    _stays,
    _fits_its_place,
    _node_stays,
    _is_open,
    _is_its_owners,
    _is_latest,
    _has_place,
    _fits_the_context,
    _fits_the_memory,
    _brings_its_ids,
)

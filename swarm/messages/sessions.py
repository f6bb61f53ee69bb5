"""A session's life on its hops: opened, renewed, closed, or refused."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from swarm.messages.base import Count, Message, ModelId, Name, NodeId, Seconds, SessionId, Small, Spec, Text, TokenId
from swarm.messages.sampling import Sampling

MOST_LIKELIEST = 20


class Tail(Struct, frozen=True, kw_only=True):
    """What the last hop alone needs: how to sample and when to stop. Its token ids travel as a tensor beside it.

    given: so many of them, the last ones, are an answer that is not drawn; each is told once how likely it is is known.
    """

    sampling: Sampling
    stop_ids: Annotated[list[TokenId], Meta(max_length=64)]
    limit: Small  # token ids in all, prompt included, at which the answer ends
    scores: Annotated[int, Meta(ge=0, le=MOST_LIKELIEST)] | None = (
        None  # with each token: how many likeliest; None: nothing
    )
    given: Small = 0


class Open(Message, frozen=True, tag="open"):
    """Open a session on one hop, or move it to a new attempt, keeping what is cached below `keep`."""

    session: SessionId
    attempt: Small
    stage: Small
    model: ModelId
    part: Spec
    previous: NodeId  # whose steps this hop takes besides the opener's prompt
    next: NodeId
    next_part: Spec
    positions: Small  # to reserve
    keep: Small
    is_first: bool
    tail: Tail | None = None
    variant: Name = ""  # of the model's weights; "" where any will do


class Opened(Message, frozen=True, tag="opened"):
    """The hop is ready: its KV is reserved, its next link is up, its cache holds `cached` positions."""

    session: SessionId
    attempt: Small
    stage: Small
    cached: Small
    is_draining: bool = False  # as in Renewed


Code = Literal[
    "KV_FULL",
    "NOT_OWNER",
    "NOT_SERVING",
    "LINK_DOWN",
    "OVERLOADED",
    "STALE",
    "GAP",
    "DUPLICATE",
    "UNKNOWN_SESSION",
    "UNKNOWN_MODEL",
    "TOO_LONG",
    "CLOSED",
    "LEAVING",
    "BAD_MESSAGE",
    "BAD_VERSION",
    "FAILED",
]


class Refused(Message, frozen=True, tag="refused"):
    """Nothing was done, and why. retry_seconds > 0: the same request may succeed then."""

    code: Code
    message: Text
    session: str = ""
    attempt: Small = 0
    stage: Small = 0
    retry_seconds: Seconds = 0.0


class Renew(Message, frozen=True, tag="renew"):
    """Renews a session's lease on every hop of this node; `have`: token ids that the client holds."""

    session: SessionId
    attempt: Small
    have: Small


class Renewed(Message, frozen=True, tag="renewed"):
    """Where the session stands here. cached: stage → positions in its cache; known: token ids at the last hop, else 0."""

    session: SessionId
    attempt: Small
    cached: Annotated[dict[Small, Small], Meta(max_length=64)]
    known: Small
    tick: Count
    busy_seconds: Seconds = 0.0  # spent computing for this session here
    lost: Annotated[list[NodeId], Meta(max_length=64)] = []
    is_draining: bool = False  # this node will soon stop to serve what the session uses here
    is_waiting: bool = False  # its steps are here, and will run when their turn comes


class Resend(Message, frozen=True, tag="resend"):
    """Send what this session last put out here once more: a frame seems to have been lost."""

    session: SessionId
    attempt: Small


class Close(Message, frozen=True, tag="close"):
    """The session is over here, up to this attempt: free its cache."""

    session: SessionId
    attempt: Small

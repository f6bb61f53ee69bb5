"""Steps that go from hop to hop, what is said of them, and the tokens that come of them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from swarm.messages.base import Count, KnownModelId, Message, Seconds, SessionId, Small, Spec, TokenId
from swarm.messages.sessions import MOST_LIKELIEST, Code


class StepSpan(Struct, frozen=True, array_like=True):
    """`length` new positions of one session, from `position` on; rows of the message's tensor in order.

    is_prompt: they were given by the client, not sampled, and the hop before waits for credit. branch: how often the
    sequence has been taken back to an earlier position in this attempt; the first step of a branch lies where it was taken
    back to, and what was cached from there on is forgotten.
    """

    session: SessionId
    attempt: Small
    stage: Small
    position: Small
    length: Annotated[int, Meta(ge=1, le=1 << 20)]
    is_prompt: bool
    branch: Small = 0


class Steps(Message, frozen=True, tag="steps"):
    """New positions of several sessions for one part: ids [tokens] for begin, else hidden states [tokens, hidden]."""

    model: KnownModelId
    part: Spec
    spans: Annotated[list[StepSpan], Meta(min_length=1, max_length=512)]


class Progress(Struct, frozen=True, array_like=True):
    """A session's hop has taken everything below `cached`, and had the last of it for so long."""

    session: SessionId
    attempt: Small
    stage: Small
    cached: Small
    held_seconds: Seconds = 0.0  # 0: not known
    branch: Small = 0  # as in StepSpan


class Credit(Message, frozen=True, tag="credit"):
    """Leave to send on: what each session's hop has run, to the hop before it."""

    items: Annotated[list[Progress], Meta(min_length=1, max_length=512)]


class Probe(Message, frozen=True, tag="probe"):
    """Measures a link; odd ones carry a uint8 tensor as load."""

    number: Count


class ProbeAck(Message, frozen=True, tag="probe-ack"):
    """Answers a Probe once it has arrived as a whole."""

    number: Count


class StepRefused(Message, frozen=True, tag="step-refused"):
    """A step was not run; the sender resends from `accepted` after GAP, and drops the session after STALE."""

    session: SessionId
    attempt: Small
    stage: Small
    code: Code
    accepted: Small


class Score(Struct, frozen=True, array_like=True):
    """How likely a token was before anything was filtered: its log-probability; the likeliest ids and theirs."""

    log_probability: float
    likeliest: Annotated[list[tuple[TokenId, float]], Meta(max_length=MOST_LIKELIEST)] = []


class Tokens(Message, frozen=True, tag="tokens"):
    """New token ids for the client: ids[0] has position `index` in the whole sequence.

    scores: one for each, if the session asked for them.
    """

    session: SessionId
    attempt: Small
    index: Small
    ids: Annotated[list[TokenId], Meta(min_length=1, max_length=4096)]
    finish: Literal["", "stop", "length"] = ""
    scores: Annotated[list[Score], Meta(max_length=4096)] = []

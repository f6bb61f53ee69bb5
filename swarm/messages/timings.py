"""What a session's last tokens spent where, for whoever asks why they are slow."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from swarm.messages.base import Count, Message, Seconds, SessionId, Small

MOST_TIMINGS = 64  # of one hop: the newest
MOST_TOLD = 512  # in one message
Clock = Annotated[float, Meta(ge=0, le=1e10)]  # seconds, by a clock that only the node itself can read


class StepTiming(Struct, frozen=True, array_like=True):
    """One sampled token's position at one hop: when it came, then how long it waited and was computed.

    queued: for what the node computed before, and for others to run with. waited: for the cores of the node's machine.
    """

    stage: Small
    position: Small
    arrived: Clock
    queued: Seconds
    waited: Seconds
    computed: Seconds


class AskTimings(Message, frozen=True, tag="ask-timings"):
    """What does your clock say, please, and when did the last tokens of my session pass."""

    session: SessionId
    number: Count
    wants_steps: bool = (
        True  # else the answer is short: on a slow link a long one comes late, and the clock seems to lag
    )


class Timings(Message, frozen=True, tag="timings"):
    """Answers AskTimings of the same number. clock: the node's own, when it answered."""

    session: SessionId
    number: Count
    clock: Clock
    steps: Annotated[list[StepTiming], Meta(max_length=MOST_TOLD)]

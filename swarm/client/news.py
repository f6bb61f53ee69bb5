"""What whoever asked is told of an answer: its tokens, the chain they come from, how it ends."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.messages.steps import Score
from swarm.parts import Part
from swarm.plan.routes import Hop


@dataclass(frozen=True, slots=True)
class Delivered:
    """New token ids of the answer, each exactly once and in order. scores: one for each, if the turn asked for them."""

    ids: tuple[int, ...]
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteTaken:
    """The chain that the answer now comes from, in a session of its hops.

    has_crossed_kinds: layers have gone from one kind of processor to another meanwhile, which may round otherwise.
    variants: of the model, in which each part has been computed in this answer, in turn: more than one where nobody served
    it any more in the first.
    """

    route: tuple[Hop, ...]
    attempts: int
    session: str = ""
    has_crossed_kinds: bool = False
    variants: tuple[tuple[Part, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is over: "stop" (end of text), "length" or "cancelled"."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer cannot go on."""

    error: SwarmError


News = Delivered | RouteTaken | Finished | Failed

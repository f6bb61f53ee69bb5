"""What a session's machine asks of its shell, and what it tells its user, in order."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.steps import Score
from swarm.messages.tensors import WireTensor
from swarm.plan.routes import Hop


@dataclass(frozen=True, slots=True)
class Connect:
    """A link to a node is needed; LinkUp will say so when it is there."""

    node: str
    channel: Channel


@dataclass(frozen=True, slots=True)
class Send:
    """A message to a node on a link of ours."""

    node: str
    channel: Channel
    message: AnyMessage
    tensor: WireTensor | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """New token ids of the answer, each exactly once and in order. scores: one for each, if the turn asked for them."""

    ids: tuple[int, ...]
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteTaken:
    """The chain that the answer now comes from.

    has_crossed_kinds: layers have gone from one kind of processor to another meanwhile, which may round otherwise.
    """

    route: tuple[Hop, ...]
    attempts: int
    has_crossed_kinds: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is over: "stop" (end of text), "length" or "cancelled"."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer cannot go on."""

    error: SwarmError


Effect = Connect | Send | Delivered | RouteTaken | Finished | Failed

"""What a node's machine is told: by its sockets, its computing threads, its machine, and whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from swarm.models import ModelKey
from swarm.node.batches import BatchResult, ServedPart
from swarm.parts import Part
from swarm.wire.events import Arrived, LinkDown, LinkFailed, LinkMessage, LinkRefused, LinkUp


class Started(Struct, frozen=True):
    """The sockets are bound. placement: what --part asks for, by model; peers: of --peer; remembered: of earlier runs."""

    data_port: int
    placement: Mapping[ModelKey, Part]
    peers: Sequence[str]
    remembered: Sequence[str] = ()


class Ticked(Struct, frozen=True):
    """A moment has passed (several a second).

    tick: the compute thread's; refused: malformed messages so far; caches: of sessions, that the engines hold.
    """

    tick: int
    refused: int
    caches: int = 0


class AddressSeen(Struct, frozen=True):
    """An advert with our swarm's tag."""

    address: str


class PartLoaded(Struct, frozen=True):
    """A Load is done."""

    served: ServedPart


class PartProgress(Struct, frozen=True):
    """A Load has come so far, in bytes."""

    model: ModelKey
    done: int
    total: int


class WeightsDamaged(Struct, frozen=True):
    """A file is not what the manifest says. part: what of the model it spoils."""

    model: ModelKey
    part: Part
    file: str
    sha256: str
    expected: str


class WeightsLost(Struct, frozen=True):
    """What is computed with can no longer be read."""

    model: ModelKey
    message: str


class ComputeEnded(Struct, frozen=True):
    """Nothing can be computed or loaded here any more."""

    message: str


class PartFailed(Struct, frozen=True):
    """A Load failed for good."""

    model: ModelKey
    message: str


class CoresTaken(Struct, frozen=True):
    """This node may compute now. was_contended: it had to wait for another node on this machine."""

    was_contended: bool = False


class BatchDone(Struct, frozen=True):
    result: BatchResult


class BatchFailed(Struct, frozen=True):
    message: str


class StopAsked(Struct, frozen=True):
    """SIGTERM or Ctrl-C."""


Event = (
    Started
    | Ticked
    | AddressSeen
    | Arrived
    | LinkUp
    | LinkDown
    | LinkRefused
    | LinkFailed
    | LinkMessage
    | PartLoaded
    | PartProgress
    | PartFailed
    | ComputeEnded
    | WeightsDamaged
    | WeightsLost
    | CoresTaken
    | BatchDone
    | BatchFailed
    | StopAsked
)

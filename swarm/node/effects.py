"""What the node's machine asks its shell to do, in order."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.tensors import WireTensor
from swarm.models import ModelKey
from swarm.node.batches import Batch
from swarm.node.residence import ALL_KEPT, Residence
from swarm.parts import Part
from swarm.wire.events import Asker


class Answer(Struct, frozen=True):
    """Send on the connection that asked."""

    asker: Asker
    message: AnyMessage
    tensor: WireTensor | None = None


class SendPeer(Struct, frozen=True):
    """Send on our own connection to a node."""

    node: str
    channel: Channel
    message: AnyMessage
    tensor: WireTensor | None = None


class SendClient(Struct, frozen=True):
    """Send to a client on its newest connection; it has one for data only to the first and the last hop."""

    node: str
    message: AnyMessage
    channel: Channel = "data"


class AnswerFile(Struct, frozen=True):
    """Answer with a piece of a document."""

    asker: Asker
    digest: str
    offset: int


class Dial(Struct, frozen=True):
    """Connect to the control port at HOST:PORT."""

    address: str


class DialData(Struct, frozen=True):
    """Connect to the data port of a node whose control link is up."""

    node: str


class LimitFrames(Struct, frozen=True):
    """Cut what is sent to a node's data port into frames of at most so many bytes."""

    node: str
    most: int


class HangUp(Struct, frozen=True):
    """Give up a control connection, and the data connection to its node if nothing else reaches that."""

    address: str


class AskCores(Struct, frozen=True):
    """Work waits: say CoresTaken once they are ours. What to run is chosen only then, so that steps merge."""


class GiveCores(Struct, frozen=True):
    """The batch is done: another node on this machine may compute."""


class Run(Struct, frozen=True):
    """Run a batch on the compute thread."""

    batch: Batch


class Forget(Struct, frozen=True):
    """Free a session's cache of a part, after whatever the compute thread was given before."""

    model: ModelKey
    session: str
    part: Part


class Load(Struct, frozen=True):
    """Bring what is loaded of a model to just this part. Until PartLoaded, what was loaded before goes on serving."""

    model: ModelKey
    part: Part
    residence: Residence = ALL_KEPT


class Unload(Struct, frozen=True):
    """Give up whatever is loaded of a model, and its caches."""

    model: ModelKey


class Advertise(Struct, frozen=True):
    """Update the mDNS advert."""

    model: str
    part: str
    memory_free: int


class Report(Struct, frozen=True):
    """Something the user should read: `kind` decides the sentence, `fields` fill it."""

    kind: str
    fields: dict[str, Any]


class Exit(Struct, frozen=True):
    """Stop the process."""

    code: int


Effect = (
    Answer
    | SendPeer
    | SendClient
    | AnswerFile
    | Dial
    | DialData
    | HangUp
    | LimitFrames
    | AskCores
    | GiveCores
    | Run
    | Forget
    | Load
    | Unload
    | Advertise
    | Report
    | Exit
)

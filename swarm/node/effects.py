"""What the node's machine asks its shell to do, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swarm.messages import AnyMessage, Channel, WireTensor
from swarm.node.work import Batch
from swarm.parts import Part
from swarm.wire.events import Asker


@dataclass(frozen=True, slots=True)
class Answer:
    """Send on the connection that asked."""

    asker: Asker
    message: AnyMessage
    tensor: WireTensor | None = None


@dataclass(frozen=True, slots=True)
class SendPeer:
    """Send on our own connection to a node."""

    node: str
    channel: Channel
    message: AnyMessage
    tensor: WireTensor | None = None


@dataclass(frozen=True, slots=True)
class SendClient:
    """Send to a client on its newest data connection."""

    node: str
    message: AnyMessage


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """Answer with a piece of a document."""

    asker: Asker
    digest: str
    offset: int


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the control port at HOST:PORT."""

    address: str


@dataclass(frozen=True, slots=True)
class DialData:
    """Connect to the data port of a node whose control link is up."""

    node: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """Give up a control connection."""

    address: str


@dataclass(frozen=True, slots=True)
class AskTurn:
    """Work waits: say TurnTaken once this node may compute. What to run is chosen only then, so that steps merge."""


@dataclass(frozen=True, slots=True)
class GiveTurn:
    """The batch is done: another node on this machine may compute."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run a batch on the compute thread."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Forget:
    """Free a session's caches of a model, after whatever the compute thread was given before."""

    model: str
    session: str


@dataclass(frozen=True, slots=True)
class Load:
    """Load a part (giving up whatever part of that model is loaded)."""

    model: str
    part: Part


@dataclass(frozen=True, slots=True)
class Advertise:
    """Update the mDNS advert."""

    model: str
    part: str
    memory_free: int


@dataclass(frozen=True, slots=True)
class Report:
    """Something the user should read: `kind` decides the sentence, `fields` fill it."""

    kind: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exit:
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
    | AskTurn
    | GiveTurn
    | Run
    | Forget
    | Load
    | Advertise
    | Report
    | Exit
)

"""What the sockets tell the machines: who asked, which links rose and fell. Plain data, no sockets."""

from __future__ import annotations

from msgspec import Struct

from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.members import Welcome
from swarm.messages.tensors import WireTensor

WRONG_SECRET = "wrong swarm secret, or not a swarm"
UNREACHABLE = "TCP connection refused or timed out"


class Asker(Struct, frozen=True):
    """A connection to answer on, and the authenticated id behind it."""

    node: str
    channel: Channel
    routing_id: bytes


class Arrived(Struct, frozen=True):
    """A well-formed message from a member, on a connection that it made."""

    asker: Asker
    message: AnyMessage
    tensor: WireTensor | None = None


class LinkUp(Struct, frozen=True):
    """A listener at `address` has said who it is (as far as any member can be believed)."""

    node: str
    channel: Channel
    address: str
    welcome: Welcome


class LinkDown(Struct, frozen=True):
    """A connection of ours that was up has broken; ZeroMQ goes on trying."""

    node: str
    channel: Channel
    address: str


class LinkRefused(Struct, frozen=True):
    """Nobody took a connection to `address` just now; ZeroMQ goes on trying. node: who did before, if anybody."""

    address: str
    channel: Channel
    node: str


class LinkFailed(Struct, frozen=True):
    """No connection to `address` yet, and why; said once."""

    address: str
    channel: Channel
    reason: str


class LinkMessage(Struct, frozen=True):
    """A message that came back on a connection of ours."""

    node: str
    channel: Channel
    message: AnyMessage
    tensor: WireTensor | None = None


LinkEvent = LinkUp | LinkDown | LinkRefused | LinkFailed | LinkMessage

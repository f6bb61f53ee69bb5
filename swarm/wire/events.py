"""What the sockets tell the machines: who asked, which links rose and fell. Plain data, no sockets."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.messages import AnyMessage, Channel, Welcome, WireTensor

WRONG_SECRET = "wrong swarm secret, or not a swarm"
UNREACHABLE = "TCP connection refused or timed out"


@dataclass(frozen=True, slots=True)
class Asker:
    """A connection to answer on, and the authenticated id behind it."""

    node: str
    channel: Channel
    routing_id: bytes


@dataclass(frozen=True, slots=True)
class Arrived:
    """A well-formed message from a member, on a connection that it made."""

    asker: Asker
    message: AnyMessage
    tensor: WireTensor | None = None


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A listener at `address` has said who it is (as far as any member can be believed)."""

    node: str
    channel: Channel
    address: str
    welcome: Welcome


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A connection of ours that was up has broken; ZeroMQ goes on trying."""

    node: str
    channel: Channel
    address: str


@dataclass(frozen=True, slots=True)
class LinkFailed:
    """No connection to `address` yet, and why; said once."""

    address: str
    channel: Channel
    reason: str


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """A message that came back on a connection of ours."""

    node: str
    channel: Channel
    message: AnyMessage
    tensor: WireTensor | None = None


LinkEvent = LinkUp | LinkDown | LinkFailed | LinkMessage

"""What a session's machine asks of its shell, in order, between the news for its user."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.client.news import News
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.tensors import WireTensor


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


Order = Connect | Send
Effect = Order | News

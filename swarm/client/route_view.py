"""Who serves what of each model, from the peer table as it is at a moment: one for all sessions of a client. Pure.

A model's part of it is read when a session first asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.messages.files import ModelCard
from swarm.messages.members import Beat
from swarm.plan.routes import Server
from swarm.plan.view import NodeView, read_views


@dataclass(frozen=True, slots=True)
class ModelView:
    """The nodes that have to do with a model, and those of them that serve some of it."""

    nodes: Sequence[NodeView]
    servers: Sequence[Server]


class RouteView:
    """What some beats say of any model."""

    def __init__(self, beats: Sequence[Beat] = ()) -> None:
        self._beats = beats
        self._models: dict[tuple[str, int], ModelView] = {}

    def of(self, card: ModelCard) -> ModelView:
        """What they say of one."""
        key = card.model, card.layers
        known = self._models.get(key)
        if known is None:
            nodes = read_views(self._beats, *key)
            servers = [node.server for node in nodes if not node.part("serving").is_empty()]
            known = self._models[key] = ModelView(nodes, servers)
        return known

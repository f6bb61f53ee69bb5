"""Who serves what of each model, from the peer table as it is at a moment: one for all sessions of a client. Pure.

A model's part of it is read when a session first asks for it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

from swarm.messages.files import ModelCard
from swarm.messages.members import Beat
from swarm.plan.routes import Hop, Server, find_route
from swarm.plan.view import NodeView, read_views


class ModelView:
    """The nodes that have to do with a model, those of them that serve some of it, and the best routes over these."""

    def __init__(self, layers: int, nodes: Sequence[NodeView], servers: Sequence[Server]) -> None:
        self.layers = layers
        self.nodes = nodes
        self.servers = servers
        self._routes: dict[Hashable, list[Hop]] = {}

    def servers_in(self, variant: str) -> Sequence[Server]:
        """Those of the model's weights in a variant; "": all."""
        return [one for one in self.servers if one.variant == variant] if variant else self.servers

    def find_route(self, variant: str, avoid: Collection[str], wanted: Mapping[int, str]) -> list[Hop]:
        """The best one. Every session looks once a second, most for the same: it is found once."""
        key = variant, frozenset(avoid), tuple(sorted(wanted.items()))
        known = self._routes.get(key)
        if known is None:
            known = self._routes[key] = find_route(self.servers_in(variant), self.layers, avoid, wanted)
        return list(known)


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
            known = self._models[key] = ModelView(card.layers, nodes, servers)
        return known

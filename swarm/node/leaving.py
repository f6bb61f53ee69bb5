"""What this node is about to stop serving: cells that it drains, or all of them because it goes. Said nowhere else. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from swarm.models import ModelKey
from swarm.parts import NOTHING, Part


class Draining(Protocol):
    """A claim, as far as it is given up."""

    @property
    def draining(self) -> Part:
        """What runs the sessions that it has and takes no more."""
        ...


class Leaving:
    """What sessions have to leave."""

    def __init__(self, claims: Mapping[ModelKey, Draining]) -> None:
        """claims: kept up to date by the caller."""
        self.is_whole_node = False
        self._claims = claims

    def part_of(self, model: ModelKey) -> Part:
        """The cells of a model that are being drained."""
        claim = self._claims.get(model)
        return NOTHING if claim is None else claim.draining

    def concerns(self, model: ModelKey, part: Part) -> bool:
        """Whether a session that runs through a part of a model must go elsewhere."""
        return self.is_whole_node or not (self.part_of(model) & part).is_empty()

"""This node's claim on one model: what may be done with which part, and how it is held. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.node.residence import ALL_KEPT, Residence
from swarm.parts import NOTHING, Part


@dataclass(slots=True)
class OwnClaim:
    """This node's claim on one model, by what may be done with it."""

    layers: int
    serving: Part = NOTHING  # sessions may be opened here
    loading: Part = NOTHING  # will be served
    draining: Part = NOTHING  # runs the sessions that it has and takes no more
    loaded_as: Residence = ALL_KEPT  # how what is loaded is held
    loads_as: Residence | None = None  # how what is loading will be
    loaded_bytes: int = 0  # of what is loading

    @property
    def wanted(self) -> Part:
        """What is served, or will be."""
        return self.serving | self.loading

    @property
    def held(self) -> Part:
        """All that costs memory."""
        return self.serving | self.loading | self.draining

    @property
    def loaded(self) -> Part:
        """What is loaded."""
        return self.serving | self.draining

    @property
    def held_as(self) -> Residence:
        """How all that costs memory is held, or will be; what drains costs what it did until it is gone."""
        return self.loaded_as if self.loads_as is None or not self.draining.is_empty() else self.loads_as

    def take_up(self, part: Part) -> None:
        """Just this part is loaded now."""
        self.serving, self.loading, self.loaded_bytes = part - self.draining, NOTHING, 0
        loads_as = self.loaded_as if self.loads_as is None else self.loads_as
        self.loaded_as, self.loads_as = loads_as.of(part), None

    @property
    def is_moving(self) -> bool:
        return not (self.loading.is_empty() and self.draining.is_empty())

"""What does not change about this node while it runs, and the models whose weights lie on its machine. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from swarm.models import ModelKey
from swarm.node.residence import ALL_KEPT, Residence
from swarm.parts import Part, part_of
from swarm.plan.costs import CellCosts


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose weights lie on this machine, and what its cells would cost in memory."""

    model: ModelKey
    name: str
    costs: CellCosts
    kv_layer_bytes: int = 0  # of what a layer costs: its KV reserve
    residence: Residence = ALL_KEPT  # of the part that it was told to serve

    @property
    def present(self) -> Part:
        """What this machine has the weights of."""
        return part_of(set(range(self.costs.layers + 2)) - self.costs.absent, self.costs.layers)

    def bytes_of(self, part: Part) -> int:
        """What a part takes, its KV reserve included."""
        spared = self.residence.spared_bytes(part.layers, self.costs.layer - self.kv_layer_bytes)
        return self.costs.of_part(part) - spared

    def count_streamed(self, part: Part) -> int:
        """How many layers of a part come from disk each time."""
        return len(self.residence.streamed_of(part.layers))

    def without(self, spoilt: Iterable[int]) -> LocalModel:
        """The same, with fewer cells."""
        return replace(self, costs=replace(self.costs, absent=self.costs.absent | frozenset(spoilt)))


@dataclass(frozen=True, slots=True)
class ThisNode:
    """What does not change about this node while it runs."""

    node: str
    incarnation: int
    name: str
    device: str
    memory_total: int
    budget: int
    models: tuple[LocalModel, ...]
    machine: str = ""  # the same for nodes that share processors
    served_before: Mapping[ModelKey, Part] = field(default_factory=dict[ModelKey, Part])  # until it was restarted

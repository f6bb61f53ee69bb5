"""What does not change about this node while it runs, and the models whose weights lie on its machine. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from swarm.models import ModelKey
from swarm.node.residence import ALL_KEPT, Loading, Residence, keep_most
from swarm.parts import Part, part_of
from swarm.plan.costs import CellCosts


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose weights lie on this machine, and what its cells would cost in memory."""

    model: ModelKey
    name: str
    costs: CellCosts
    kv_layer_bytes: int = 0  # of what a layer costs: its KV reserve
    told: Residence | None = None  # of the part that it was told to serve
    source_rate: float = 0.0  # bytes a second that its files are read with; 0: not measured

    @property
    def present(self) -> Part:
        """What this machine has the weights of."""
        return part_of(set(range(self.costs.layers + 2)) - self.costs.absent, self.costs.layers)

    def bytes_of(self, part: Part, residence: Residence = ALL_KEPT) -> int:
        """What a part takes, its KV reserve included."""
        return self.costs.of_part(part) - self.spared_bytes(part, residence)

    @property
    def weight_bytes(self) -> int:
        """Of a layer."""
        return self.costs.weight or self.costs.layer - self.kv_layer_bytes

    def spared_bytes(self, part: Part, residence: Residence) -> int:
        """What a part does not take since some of its layers are on disk."""
        return residence.spared_bytes(part.layers, self.weight_bytes)

    def bytes_while(self, loading: Loading, part: Part) -> int:
        """The most that a part takes while it is loaded beside what was."""
        beside = loading.layers_at_once - part.layer_count
        return self.costs.of_part(part) + beside * self.weight_bytes

    def bounds(self, part: Part) -> tuple[int, int]:
        """The least and the most that a part can take."""
        if self.told is None:
            return self.costs.fewest_bytes(part), self.bytes_of(part)
        told = self.bytes_of(part, self.told.of(part))
        return told, told

    def hold(self, part: Part, budget: int, now: Residence, loaded: Collection[int]) -> Residence | None:
        """How a part is held: as it was told, or with as much kept as fits; None if that is too little.

        now, loaded: how what is loaded so far is held, and which layers that are.
        """
        if self.told is None:
            return keep_most(part, self.costs, budget, now, loaded)
        return self.told.of(part)

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

"""What a model's cells cost a node in bytes, and how it holds more layers than its memory does. Pure.

A layer that comes from disk each time it is needed takes no memory but its KV; a few buffers of a layer each are shared by
all of them. Those displace layers that were kept, so so many more are streamed than do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.parts import Part

UNAFFORDABLE = 1 << 62
BUFFERS = 1  # of a layer each, at least: the next layer is read over what has been used of one
FEW_LAYERS = (
    4  # are streamed through one buffer: that saves reading a layer more. More go through two, which saves visits
)
MOST_VISITS = 8  # of one node by a chain, as far as buffers can spare them


@dataclass(frozen=True, slots=True)
class Streamed:
    """So many layers come from disk, through so many buffers."""

    layers: int = 0
    buffers: int = 0

    @property
    def visits(self) -> int:
        """How often a chain comes by, so that what is read between two visits always fits the buffers."""
        return -(-self.layers // self.buffers) if self.buffers else 1


NONE_STREAMED = Streamed()


@dataclass(frozen=True, slots=True)
class CellCosts:
    """Bytes that a node needs for each kind of cell of one model, its KV reserve included.

    shared: what begin and end have in common where a node has both. absent: cells whose weights the node has not got, which
    no memory makes up for. weight: of a layer, what it does not take while it is on disk; 0: none is streamed.
    """

    layers: int
    begin: int
    layer: int
    end: int
    absent: frozenset[int] = frozenset()
    shared: int = 0
    weight: int = 0

    def of_part(self, part: Part) -> int:
        """What a part's cells cost together, all layers kept."""
        both = self.shared if part.begin and part.end else 0
        return sum(self.of(cell) for cell in part.cells) - both

    def least_bytes(self, part: Part, budget: int) -> int:
        """What a part takes of a budget, with as many of its layers kept as that allows."""
        needed = self.of_part(part)
        streamed = None if needed <= budget else stream_away(needed - budget, part.layer_count, self.weight)
        return needed if streamed is None else needed - (streamed.layers - streamed.buffers) * self.weight

    def fewest_bytes(self, part: Part) -> int:
        """What a part takes with as many of its layers on disk as can be."""
        return self.of_part(part) - most_spared(part.layer_count) * self.weight

    def of(self, cell: int) -> int:
        if cell in self.absent:
            return UNAFFORDABLE
        return self.begin if cell == 0 else self.end if cell == self.layers + 1 else self.layer

    @property
    def present_layers(self) -> int:
        """How many layers the node has the weights of."""
        return self.layers - sum(0 < cell <= self.layers for cell in self.absent)

    def beside_ends(self, budget: int, begin: bool, end: bool) -> int:
        """What is left of a budget beside begin and end; negative if those alone are too much."""
        return budget - (self.of(0) if begin else 0) - (self.of(self.layers + 1) if end else 0)

    def most_kept(self, budget: int) -> int:
        """How many layers fit; negative if there is nothing to spend."""
        return min(budget // self.layer, self.present_layers) if budget >= 0 else -1

    def most_layers(self, budget: int) -> int:
        """How many a node could hold, most of them on disk."""
        kept = self.most_kept(budget)
        if kept < 0 or not self.weight:
            return kept
        left = budget - (BUFFERS + 1) * self.weight
        kv = self.layer - self.weight
        streamed = (left // kv if kv else self.layers) if left >= 0 else 0
        return max(kept, min(streamed, self.present_layers))

    def hold(self, layers: int, budget: int) -> Streamed | None:
        """How so many layers are held with a budget: as few from disk as possible. None if they cannot be."""
        lacking = layers * self.layer - budget
        return NONE_STREAMED if lacking <= 0 else stream_away(lacking, layers, self.weight)


def stream_away(lacking: int, layers: int, weight: int) -> Streamed | None:
    """How many of some layers are streamed to save so many bytes; None if that is not enough.

    weight: bytes that each takes in memory, 0 if none may be streamed. One is kept: what is loaded first takes a layer
    beside the buffers for a moment.
    """
    if not weight:
        return None
    surplus = -(-lacking // weight)
    most = layers - 1 - surplus  # buffers
    if most < BUFFERS:
        return None
    buffers = min(most, max(buffers_for(surplus + BUFFERS), -(-surplus // (MOST_VISITS - 1))))
    return Streamed(surplus + buffers, buffers)


def most_spared(layers: int) -> int:
    """How many of some layers' weights need no memory where as many as can be are streamed: one is kept."""
    return max(0, layers - 1 - BUFFERS)


def buffers_for(layers: int) -> int:
    """Through how many so many layers should come."""
    return BUFFERS if layers <= FEW_LAYERS else 2 * BUFFERS

"""What this node's memory is spent on: the weights of all its models, and the KV of all their sessions. Pure.

A model is sure of the KV reserve that its claim counts; what nobody uses of the rest is lent to whoever asks first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from swarm.models import ModelKey
from swarm.node.residence import ALL_KEPT, Residence
from swarm.node.this_node import LocalModel
from swarm.parts import NOTHING, Part


class Holding(Protocol):
    """A claim, as far as memory goes."""

    @property
    def held(self) -> Part:
        """All whose weights are in memory, or are about to be."""
        ...

    @property
    def held_as(self) -> Residence:
        """How it is held, or is about to be."""
        ...

    @property
    def loaded_as(self) -> Residence:
        """How what is loaded is held."""
        ...

    @property
    def loaded(self) -> Part:
        """What is loaded."""
        ...


class MemoryAccount:
    """Bytes of one device."""

    def __init__(self, budget: int, models: Mapping[ModelKey, LocalModel], claims: Mapping[ModelKey, Holding]) -> None:
        """budget: for weights and KV. models, claims: the caller keeps both up to date."""
        self._budget = budget
        self._models = models
        self._claims = claims
        self._kv_used: dict[ModelKey, int] = {}  # bytes that sessions have reserved

    # KV ---------------------------------------------------------------------------------------------------------------

    def kv_used(self, model: ModelKey) -> int:
        """Bytes that a model's sessions have reserved."""
        return self._kv_used.get(model, 0)

    def reserve(self, model: ModelKey, size: int) -> None:
        """A session takes so many bytes; a negative number gives them back."""
        self._kv_used[model] = self.kv_used(model) + size

    def kv_room(self, model: ModelKey) -> int:
        """The most that a model's sessions may have together while others keep what they use and are sure of."""
        claim = self._claims.get(model)
        weights = 0 if claim is None else self._weights(model, claim.held, claim.held_as)
        return self.room(model) - weights

    def most_kv_room(self, model: ModelKey, part: Part) -> int:
        """What a model's sessions could ever have beside a part of it; what they lack of that is a matter of time."""
        claim = self._claims.get(model)
        residence = ALL_KEPT if claim is None else claim.held_as
        return self._budget - (self._weights(model, part, residence) if model in self._models else 0)

    def borrows(self, model: ModelKey) -> bool:
        """Whether a model's sessions use more than its reserve."""
        return model in self._claims and self._borrowed(model) > 0

    # Claims -----------------------------------------------------------------------------------------------------------

    def free(self, but: ModelKey | None = None) -> int:
        """Bytes that no claim has spoken for; claims on `but` do not count."""
        held = sum(
            self._models[model].bytes_of(claim.held, claim.held_as)
            for model, claim in self._claims.items()
            if model != but
        )
        return self._budget - held

    def most_free(self, but: ModelKey) -> int:
        """Bytes for one model if all others kept as little of theirs as they can."""
        others = [(model, claim) for model, claim in self._claims.items() if model != but]
        return self._budget - sum(self._models[model].bounds(claim.held)[0] for model, claim in others)

    def room(self, model: ModelKey) -> int:
        """Bytes for a model beside what other models claim or have borrowed."""
        return self.free(but=model) - sum(self._borrowed(other) for other in self._claims if other != model)

    def hold(self, model: ModelKey, part: Part) -> Residence | None:
        """How a part can be held beside the other models' claims and the KV that sessions have reserved now, if at all."""
        claim = self._claims.get(model)
        now, loaded = (ALL_KEPT, NOTHING) if claim is None else (claim.loaded_as, claim.loaded)
        return self._models[model].hold(part, self.room_of(model, part), now, loaded.layers)

    def room_of(self, model: ModelKey, part: Part) -> int:
        """Bytes for a part of a model and its KV reserve, beside the KV that its sessions use beyond that, too."""
        return self.room(model) - max(0, self.kv_used(model) - self._kv_reserve(model, part))

    def _borrowed(self, model: ModelKey) -> int:
        """KV in use beyond the reserve."""
        return max(0, self.kv_used(model) - self._kv_reserve(model, self._claims[model].held))

    def _kv_reserve(self, model: ModelKey, part: Part) -> int:
        return part.layer_count * self._models[model].kv_layer_bytes

    def _weights(self, model: ModelKey, part: Part, residence: Residence) -> int:
        return self._models[model].bytes_of(part, residence) - self._kv_reserve(model, part)

"""How this node's memory holds what it claims: which layers are kept, which read from disk, what gives way to what. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.models import ModelKey
from swarm.node.account import MemoryAccount
from swarm.node.claims.claim import OwnClaim
from swarm.node.effects import Load
from swarm.node.residence import ALL_KEPT, Loading, Residence, share_memory
from swarm.node.this_node import LocalModel
from swarm.parts import NOTHING, Part


class ClaimRoom:
    """The memory of this node's claims."""

    def __init__(
        self, models: Mapping[ModelKey, LocalModel], claims: dict[ModelKey, OwnClaim], account: MemoryAccount
    ) -> None:
        self._models = models
        self._claims = claims
        self._account = account

    def of(self, model: ModelKey) -> OwnClaim:
        """The claim on a model, made if there is none."""
        return self._claims.setdefault(model, OwnClaim(self._models[model].costs.layers))

    def load(self, model: ModelKey, gained: Part, part: Part, residence: Residence | None = None) -> Load:
        """Have a model's part loaded, of which some is gained.

        residence: how it is to be held; None: as fits.
        """
        claim = self.of(model)
        if residence is None:
            residence = self._account.hold(model, part) or ALL_KEPT
        claim.loading, claim.loads_as = gained, residence
        return Load(model, part, residence)

    def load_all(self, placement: Mapping[ModelKey, Part]) -> list[Load]:
        """Have parts of several models loaded, with nothing claimed before: they share the memory."""
        needs = [self._models[model].bounds(part) for model, part in placement.items()]
        shares = share_memory(needs, self._account.free())
        return [
            self.load(model, part, part, self._models[model].hold(part, share, ALL_KEPT, ()) or ALL_KEPT)
            for (model, part), share in zip(placement.items(), shares, strict=True)
        ]

    def make_room(self, model: ModelKey, part: Part) -> Load | None:
        """Have another model keep less, so that a part of this one fits, now or once more of them do.

        One that nobody asks anything of gives way first. None if all of them together cannot spare as much.
        """
        wanted, room = self._models[model].bounds(part), self._account.room(model)
        spare = {one: self._spare_bytes(one) for one in self._claims if one != model}
        if wanted[0] > room + sum(spare.values()):
            return None
        is_enough = {one: wanted[0] <= room + spared for one, spared in spare.items()}
        for other in sorted(spare, key=lambda one: (not is_enough[one], self._account.kv_used(one), -spare[one], one)):
            if not spare[other]:
                continue
            claim, local = self._claims[other], self._models[other]
            held = local.bytes_of(claim.held, claim.held_as)
            _, share = share_memory([wanted, local.bounds(claim.held)], room + held)
            less = local.hold(claim.held, min(share, held - 1), claim.loaded_as, claim.loaded.layers)
            if less is not None:
                return self.load(other, NOTHING, claim.held, less)
        return None

    def _spare_bytes(self, model: ModelKey) -> int:
        """What a model would give up if it kept as little as it can; nothing while something is under way with it."""
        claim, local = self._claims[model], self._models[model]
        if claim.is_moving or claim.loads_as is not None or claim.held.is_empty():
            return 0
        return local.bytes_of(claim.held, claim.held_as) - local.bounds(claim.held)[0]

    def hold_while_moving(self, model: ModelKey, union: Part, target: Part) -> Residence | None:
        """How what is held and what is to be held can be held together; None if they cannot be.

        Nothing is read from disk for that alone: what a node could keep, it loads once the rest is dropped.
        """
        residence = self._account.hold(model, union)
        if residence is None or not residence.streamed:
            return residence
        last = self._account.hold(model, target)
        return None if last is None or not last.streamed else residence

    def thin_out(self, model: ModelKey, union: Part, residence: Residence) -> Load | None:
        """Have a model keep less of what is loaded first, where loading more of it would take too much memory at once."""
        claim, local = self.of(model), self._models[model]
        loading = Loading(claim.loaded_as, claim.loaded.layers, residence, union.layers)
        thinner = loading.thin_out()
        if thinner is None or local.bytes_while(loading, union) <= self._account.room_of(model, union):
            return None
        return self.load(model, NOTHING, claim.held, thinner)

    def keep_more(self, model: ModelKey) -> Residence | None:
        """How to hold what is held now with fewer layers from disk, where there is room for that."""
        claim = self.of(model)
        now = claim.loaded_as.count_read(claim.loaded.layers)
        better = self._account.hold(model, claim.held) if now else None
        return better if better is not None and better.count_read(claim.held.layers) < now else None

"""Keeps this node's claims true: what is taken up, has come, has failed to come, or turns out to be damaged. Pure.

Who moves, and when, is moves.py's affair. That peers hear of what changes is the machine's.
"""

from __future__ import annotations

from collections.abc import Mapping

from swarm.models import ModelKey
from swarm.node.batches import ServedPart
from swarm.node.claims.moves import MoveRunner
from swarm.node.claims.own import OwnClaims
from swarm.node.effects import Effect, Exit, Report, Unload
from swarm.node.events import PartFailed, PartProgress, WeightsDamaged, WeightsLost
from swarm.node.hops.sessions import SessionTable
from swarm.node.peers.membership import Membership
from swarm.parts import NOTHING, Part, whole


class ClaimKeeper:
    """Follows what becomes of the weights that this node has asked for."""

    def __init__(self, claims: OwnClaims, sessions: SessionTable, moves: MoveRunner, membership: Membership) -> None:
        self._claims = claims
        self._sessions = sessions
        self._moves = moves
        self._membership = membership

    def take_up(self, placement: Mapping[ModelKey, Part]) -> list[Effect]:
        """Give up what was claimed so far for other claims."""
        effects: list[Effect] = []
        for model in list(self._claims.by_model):
            del self._claims.by_model[model]
            effects += [*self._sessions.withdraw(model), Unload(model)]
        return [*effects, *self._claims.room.load_all(placement)]

    def progressed(self, event: PartProgress) -> list[Effect]:
        """A part is being read."""
        claim = self._claims.of(event.model)
        claim.loaded_bytes = event.done
        part = claim.held if claim.loading.is_empty() else claim.loading
        fields = {"model": self._membership.local[event.model].name, "part": str(part)}
        return [Report("loading", {**fields, "done": event.done, "total": event.total})]

    def loaded(self, served: ServedPart, now: float) -> list[Effect]:
        """A part is there; nothing comes of it if the claim has moved on meanwhile."""
        if not self._claims.of(served.model).wanted.covers(served.part):
            return []
        self._sessions.serve(served)
        effects = self._moves.loaded(served.model, served.part, now)
        return [self._report_ready(served), *effects]

    def _report_ready(self, served: ServedPart) -> Report:
        local, residence = self._membership.local[served.model], self._claims.of(served.model).loaded_as
        model, variant = served.model
        fields = {
            "part": str(served.part),
            "model": local.name,
            "model_id": model,
            "variant": variant,
            "spared": local.spared_bytes(served.part, residence),
        }
        if streamed := residence.count_read(served.part.layers):
            fields["streamed"] = str(streamed)
        return Report("ready", fields)

    def failed(self, event: PartFailed, now: float) -> list[Effect]:
        """What was served goes on; a model of which nothing was is given up here, and a node that has no other ends."""
        claim = self._claims.of(event.model)
        effects: list[Effect] = [Report("failed", {"model": str(event.model), "message": event.message})]
        effects += self._moves.failed(event.model, now)
        return [*effects, *self._give_up(event.model, claim.layers)] if claim.serving.is_empty() else effects

    def lost(self, event: WeightsLost, now: float) -> list[Effect]:
        """Serve nothing of a model whose weights can no longer be read; likewise."""
        model = event.model
        claim = self._claims.by_model.get(model)
        if claim is None:
            return []
        return [
            Report("failed", {"model": str(model), "message": event.message}),
            *self._moves.drop(model, now),
            *self._sessions.refuse_users(model, claim.held, event.message),
            *self._sessions.withdraw(model),
            Unload(model),
            *self._give_up(model, claim.layers),
        ]

    def _give_up(self, model: ModelKey, layers: int) -> list[Effect]:
        """A model, for as long as this process runs."""
        self._membership.spoil(model, whole(layers))
        del self._claims.by_model[model]
        has_other = any(not other.held.is_empty() for other in self._claims.by_model.values())
        return [] if has_other else [Exit(1)]

    def damaged(self, event: WeightsDamaged, now: float) -> list[Effect]:
        """Serve nothing that comes from damaged weights; clients go elsewhere at once."""
        model = event.model
        claim = self._claims.of(model)
        self._membership.spoil(model, event.part)
        bad = claim.held & event.part
        fields = {"file": event.file, "sha256": event.sha256, "expected": event.expected}
        effects: list[Effect] = [Report("damaged", fields)]
        if bad.is_empty():
            return effects
        effects += self._moves.drop(model, now)
        effects += self._sessions.refuse_users(model, bad, f"{event.file} is damaged")
        left = claim.serving - bad
        claim.serving, claim.draining = NOTHING, NOTHING
        effects += self._sessions.withdraw(model)
        if not left.is_empty():
            return [*effects, self._claims.room.load(model, left, left)]
        del self._claims.by_model[model]
        return [*effects, Unload(model)]

"""What this node serves, loads and drains of each model, and what it publishes of that. Pure.

Who changes a claim, and when, is moves.py's affair and the machine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarm.messages.base import MOST_SPEC, ClaimState
from swarm.messages.members import Capacity, Claim
from swarm.models import ModelKey
from swarm.node.account import MemoryAccount
from swarm.node.claims.claim import OwnClaim
from swarm.node.claims.room import ClaimRoom
from swarm.node.hops.sessions import SessionTable
from swarm.node.leaving import Leaving
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import Part, join_parts, part_of
from swarm.plan.figures import Published


class OwnClaims:
    """This node's claims by model."""

    def __init__(self, me: ThisNode, models: Mapping[ModelKey, LocalModel]) -> None:
        """models: whose weights lie here; kept up to date by the caller."""
        self.by_model: dict[ModelKey, OwnClaim] = {}
        self.account = MemoryAccount(me.budget, models, self.by_model)
        self.room = ClaimRoom(models, self.by_model, self.account)
        self.leaving = Leaving(self.by_model)
        self._models = models
        self._layer_seconds = {model: Published() for model in self._models}
        self._end_seconds = {model: Published() for model in self._models}
        self._prompt_seconds = {model: Published() for model in self._models}
        self._compute_seconds = {model: Published() for model in self._models}
        self._source_rate = {model: Published() for model in self._models}
        for model, local in models.items():
            self._source_rate[model].follow(local.source_rate)

    def of(self, model: ModelKey) -> OwnClaim:
        """The claim on a model, made if there is none."""
        return self.room.of(model)

    @property
    def placed(self) -> dict[ModelKey, Part]:
        """What is served or will be, by model."""
        return {model: claim.wanted for model, claim in self.by_model.items() if not claim.wanted.is_empty()}

    @property
    def layers(self) -> dict[str, int]:
        """How many layers each model has of which there are weights here, by id."""
        return {model.id: local.costs.layers for model, local in self._models.items()}

    def serving(self, model: str, but: ModelKey | None = None) -> Part:
        """What is served of a model in any variant but one."""
        return join_parts(claim.serving for key, claim in self.by_model.items() if key.id == model and key != but)

    def held(self, model: str) -> Part:
        """What is served, loaded or drained of a model in any variant."""
        return join_parts(claim.held for key, claim in self.by_model.items() if key.id == model)

    @property
    def states(self) -> list[tuple[Part, Part, Part]]:
        """What is served, loaded and drained, to see whether it has changed."""
        return [(claim.serving, claim.loading, claim.draining) for claim in self.by_model.values()]

    # What is published ------------------------------------------------------------------------------------------------

    def note_figures(self, sessions: SessionTable) -> None:
        """Take what was measured since the last call into what is published."""
        for model, pace in sessions.paces.items():
            self._layer_seconds[model].follow(pace.layer_seconds)
            self._end_seconds[model].follow(pace.end_seconds)
            self._compute_seconds[model].follow(pace.compute_seconds)
            if pace.source_rate:
                self._source_rate[model].follow(pace.source_rate)
            served = sessions.served.get(model)
            layers = 0 if served is None else served.part.layer_count
            self._prompt_seconds[model].follow(pace.mean_prompt_seconds(layers))

    def list_claims(self, sessions: SessionTable) -> list[Claim]:
        """For beats."""
        states: Sequence[ClaimState] = ("serving", "loading", "draining")
        return [
            self._describe(model, getattr(claim, state), state, sessions)
            for model, claim in sorted(self.by_model.items())
            for state in states
            if not getattr(claim, state).is_empty()
        ]

    def _describe(self, model: ModelKey, part: Part, state: ClaimState, sessions: SessionTable) -> Claim:
        served, pace = sessions.served.get(model), sessions.paces.get(model)
        position_bytes = 0 if served is None else max(1, served.cache_bytes * part.layer_count)
        return Claim(
            model=model.id,
            name=self._models[model].name,
            layers=self._models[model].costs.layers,
            part=str(part),
            state=state,
            layer_seconds=self._layer_seconds[model].value,
            compute_seconds=self._compute_seconds[model].value,
            end_seconds=self._end_seconds[model].value,
            prompt_seconds=self._prompt_seconds[model].value,
            variant=model.variant,
            kind="" if served is None else served.kind,
            streamed=self.by_model[model].held_as.count_read(part.layers),
            stall_seconds=0.0 if pace is None else pace.stall_seconds,
            hit_rate=1.0 if pace is None else pace.hit_rate,
            source_rate=0 if pace is None else int(pace.source_rate),
            loaded_bytes=self.by_model[model].loaded_bytes if state == "loading" else 0,
            kv_positions=0 if served is None else max(0, sessions.kv_room(model)) // position_bytes,
            kv_free_positions=0 if served is None else max(0, sessions.kv_free(model)) // position_bytes,
        )

    def list_capacities(self) -> list[Capacity]:
        """What each model's cells cost here, and what they may cost together."""
        return [
            Capacity(
                model=local.model.id,
                variant=local.model.variant,
                name=local.name,
                layers=local.costs.layers,
                layer_bytes=local.costs.layer,
                weight_bytes=local.costs.weight,
                source_rate=int(self._source_rate[local.model].value),
                begin_bytes=local.costs.begin,
                end_bytes=local.costs.end,
                budget_bytes=max(0, self.account.free(but=local.model)),
                most_bytes=max(0, self.account.most_free(local.model)),
                present=_bounded(local.present, local.costs.layers),
            )
            for local in self._models.values()
        ]


def _bounded(part: Part, layers: int) -> str:
    """A part as beats may carry it: of one that is too scattered, the longest stretches."""
    stretches = sorted(part.cell_ranges, key=lambda run: (run[0] - run[1], run[0]))
    while len(str(part)) > MOST_SPEC:
        stretches.pop()
        part = part_of((cell for run in stretches for cell in range(*run)), layers)
    return str(part)

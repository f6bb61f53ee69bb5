"""What this node serves, loads and drains of each model, and what it publishes of that. Pure.

Who changes a claim, and when, is moves.py's affair and the machine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.messages.base import MOST_SPEC, ClaimState
from swarm.messages.members import Capacity, Claim
from swarm.models import ModelKey
from swarm.node.account import MemoryAccount
from swarm.node.effects import Load
from swarm.node.hops.sessions import SessionTable
from swarm.node.leaving import Leaving
from swarm.node.residence import ALL_KEPT, Residence, share_memory
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import NOTHING, Part, join_parts, part_of
from swarm.plan.figures import Published


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


class OwnClaims:
    """This node's claims by model."""

    def __init__(self, me: ThisNode, models: Mapping[ModelKey, LocalModel]) -> None:
        """models: whose weights lie here; kept up to date by the caller."""
        self.by_model: dict[ModelKey, OwnClaim] = {}
        self.account = MemoryAccount(me.budget, models, self.by_model)
        self.leaving = Leaving(self.by_model)
        self._models = models
        self._layer_seconds = {model: Published() for model in self._models}
        self._end_seconds = {model: Published() for model in self._models}
        self._prompt_seconds = {model: Published() for model in self._models}
        self._compute_seconds = {model: Published() for model in self._models}
        self._source_rate = {model: Published() for model in self._models}

    def of(self, model: ModelKey) -> OwnClaim:
        """The claim on a model, made if there is none."""
        return self.by_model.setdefault(model, OwnClaim(self._models[model].costs.layers))

    @property
    def placed(self) -> dict[ModelKey, Part]:
        """What is served or will be, by model."""
        return {model: claim.wanted for model, claim in self.by_model.items() if not claim.wanted.is_empty()}

    @property
    def layers(self) -> dict[str, int]:
        """How many layers each model has of which there are weights here, by id."""
        return {model.id: local.costs.layers for model, local in self._models.items()}

    def load(self, model: ModelKey, gained: Part, part: Part, residence: Residence | None = None) -> Load:
        """Have a model's part loaded, of which some is gained.

        residence: how it is to be held; None: as fits.
        """
        claim = self.of(model)
        if residence is None:
            residence = self.account.hold(model, part) or ALL_KEPT
        claim.loading, claim.loads_as = gained, residence
        return Load(model, part, residence)

    def load_all(self, placement: Mapping[ModelKey, Part]) -> list[Load]:
        """Have parts of several models loaded, with nothing claimed before: they share the memory."""
        needs = [self._models[model].bounds(part) for model, part in placement.items()]
        shares = share_memory(needs, self.account.free())
        return [
            self.load(model, part, part, self._models[model].hold(part, share, ALL_KEPT, ()) or ALL_KEPT)
            for (model, part), share in zip(placement.items(), shares, strict=True)
        ]

    def make_room(self, model: ModelKey, part: Part) -> Load | None:
        """Have another model keep less, so that a part of this one fits, now or once more of them do.

        One that nobody asks anything of gives way first. None if all of them together cannot spare as much.
        """
        wanted, room = self._models[model].bounds(part), self.account.room(model)
        spare = {one: self._spare_bytes(one) for one in self.by_model if one != model}
        if wanted[0] > room + sum(spare.values()):
            return None
        is_enough = {one: wanted[0] <= room + spared for one, spared in spare.items()}
        for other in sorted(spare, key=lambda one: (not is_enough[one], self.account.kv_used(one), -spare[one], one)):
            if not spare[other]:
                continue
            claim, local = self.by_model[other], self._models[other]
            held = local.bytes_of(claim.held, claim.held_as)
            _, share = share_memory([wanted, local.bounds(claim.held)], room + held)
            less = local.hold(claim.held, min(share, held - 1), claim.loaded_as, claim.loaded.layers)
            if less is not None:
                return self.load(other, NOTHING, claim.held, less)
        return None

    def _spare_bytes(self, model: ModelKey) -> int:
        """What a model would give up if it kept as little as it can; nothing while something is under way with it."""
        claim, local = self.by_model[model], self._models[model]
        if claim.is_moving or claim.loads_as is not None or claim.held.is_empty():
            return 0
        return local.bytes_of(claim.held, claim.held_as) - local.bounds(claim.held)[0]

    def hold_while_moving(self, model: ModelKey, union: Part, target: Part) -> Residence | None:
        """How what is held and what is to be held can be held together; None if they cannot be.

        Nothing is read from disk for that alone: what a node could keep, it loads once the rest is dropped.
        """
        residence = self.account.hold(model, union)
        if residence is None or not residence.streamed:
            return residence
        last = self.account.hold(model, target)
        return None if last is None or not last.streamed else residence

    def keep_more(self, model: ModelKey) -> Residence | None:
        """How to hold what is held now with fewer layers from disk, where there is room for that."""
        claim = self.of(model)
        now = claim.loaded_as.count_read(claim.loaded.layers)
        better = self.account.hold(model, claim.held) if now else None
        return better if better is not None and better.count_read(claim.held.layers) < now else None

    def serving(self, model: str, but: ModelKey | None = None) -> Part:
        """What is served of a model in any variant but one."""
        return join_parts(claim.serving for key, claim in self.by_model.items() if key.id == model and key != but)

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
            source_rate=0 if pace is None else int(pace.source_rate),
            loaded_bytes=self.by_model[model].loaded_bytes if state == "loading" else 0,
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

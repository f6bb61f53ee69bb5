"""What a node says of one model, read once: for the planner, the router, first claims and the user. Pure.

Nodes that share a machine's processors are equally fast, whatever they have measured: one that loads, or that waits while
another computes, measures itself slower than it is. So the least of their figures counts for all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from swarm.errors import RequestError
from swarm.messages.base import ClaimState
from swarm.messages.members import Beat, Capacity, Claim
from swarm.parts import NOTHING, Part, join_parts, parse_part, whole
from swarm.plan.costs import CellCosts
from swarm.plan.routes import HOP_SECONDS, Server
from swarm.plan.shares import PlannedNode


@dataclass(frozen=True, slots=True)
class Pace:
    """What a model costs on a machine, in seconds; 0 where nobody there has measured it."""

    layer: float = 0.0
    end: float = 0.0
    prompt: float = 0.0
    compute: float = 0.0  # of layer, what is no waiting for a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node and one model in one variant.

    parts: what it holds, by state. sessions: of the node of its machine that has most, for they slow all of them. budget,
    costs: for cells of the model; None where it will not move. most_budget: if its other models gave way.
    """

    node: str
    parts: Mapping[ClaimState, Part]
    pace: Pace
    link_seconds: float
    sessions: int
    variant: str
    kind: str
    budget: int | None
    most_budget: int
    costs: CellCosts | None
    read_seconds: float  # of a layer, from disk; 0: not measured
    streamed: int  # layers that it says it reads from disk each time
    loaded_bytes: int  # of what it loads
    is_pressed: bool  # whether it could hold other models of which somebody reads layers from disk each time

    def part(self, *states: ClaimState) -> Part:
        """What it holds in any of these states."""
        return join_parts(self.parts.get(state, NOTHING) for state in states)

    @property
    def server(self) -> Server:
        """The same for the router."""
        return Server(
            self.node,
            self.part("serving"),
            self.pace.layer,
            self.pace.end,
            self.link_seconds,
            self.sessions,
            self.pace.prompt,
            self.variant,
        )

    def member(self, layers: int, passed: Collection[str] = (), stuck: Collection[str] = ()) -> PlannedNode:
        """The same for the planner.

        passed: nodes to leave as they are. stuck: likewise, and what they load is not counted upon.
        """
        is_stuck = self.node in stuck
        return PlannedNode(
            node=self.node,
            variant=self.variant,
            budget=self.budget or 0,
            most_budget=self.most_budget,
            costs=self.costs or CellCosts(layers, 0, 1, 0),
            layer_seconds=self.pace.compute,
            end_seconds=self.pace.end,
            read_seconds=self.read_seconds,
            prompt_seconds=self.pace.prompt,
            link_seconds=self.link_seconds,
            is_pressed=self.is_pressed,
            part=self.part("serving") if is_stuck else self.part("serving", "loading"),
            stays=self.costs is None or self.node in passed or is_stuck,
        )


def read_views(beats: Iterable[Beat], model: str, layers: int) -> list[NodeView]:
    """The nodes that hold some of a model or could, by id and variant; what they say of another number of layers is
    another model's.
    """
    ordered = sorted(beats, key=lambda beat: beat.node)
    paces = _find_paces(ordered, model)
    sessions: dict[_Machine, int] = {}
    for beat in ordered:
        sessions[_machine_of(beat)] = max(sessions.get(_machine_of(beat), 0), beat.sessions)
    views: list[NodeView] = []
    short = {claim.model for beat in ordered for claim in beat.claims if claim.streamed} - {model}
    for beat in ordered:
        machine = _machine_of(beat)
        is_pressed = any(capacity.model in short for capacity in beat.capacities)
        for variant, said in _by_variant(beat, model, layers).items():
            pace = paces.get((machine, variant), Pace())
            with contextlib.suppress(RequestError):  # it is no part of the model: others are not to suffer for it
                views.append(_read(beat, variant, said, layers, pace, sessions[machine], is_pressed))
    return views


@dataclass(slots=True)
class _Said:
    """What a node says of one variant of a model."""

    capacity: Capacity | None = None
    claims: list[Claim] = field(default_factory=list[Claim])


def _by_variant(beat: Beat, model: str, layers: int) -> dict[str, _Said]:
    said: dict[str, _Said] = {}
    for claim in beat.claims:
        if (claim.model, claim.layers) == (model, layers):
            said.setdefault(claim.variant, _Said()).claims.append(claim)
    for capacity in beat.capacities:
        if (capacity.model, capacity.layers) == (model, layers):
            said.setdefault(capacity.variant, _Said()).capacity = capacity
    return dict(sorted(said.items()))


def _read(beat: Beat, variant: str, said: _Said, layers: int, pace: Pace, sessions: int, is_pressed: bool) -> NodeView:
    """One node and variant. Raises RequestError for what is no part of the model."""
    capacity, claims = said.capacity, said.claims
    parts: dict[ClaimState, Part] = {}
    for claim in claims:
        parts[claim.state] = parts.get(claim.state, NOTHING) | parse_part(claim.part, layers)
    served = next((claim for claim in claims if claim.state == "serving"), None) or next(iter(claims), None)
    return NodeView(
        node=beat.node,
        parts=parts,
        pace=pace,
        link_seconds=beat.link_seconds or HOP_SECONDS,
        sessions=sessions,
        variant=variant,
        kind="" if served is None else served.kind,
        budget=None if capacity is None else capacity.budget_bytes,
        most_budget=0 if capacity is None else capacity.most_bytes,
        costs=None if capacity is None else costs_of(capacity),
        read_seconds=_read_seconds(capacity),
        streamed=sum(claim.streamed for claim in claims),
        loaded_bytes=sum(claim.loaded_bytes for claim in claims),
        is_pressed=is_pressed,
    )


def _read_seconds(capacity: Capacity | None) -> float:
    """Of a layer from disk; 0 where nothing is measured."""
    return capacity.weight_bytes / capacity.source_rate if capacity is not None and capacity.source_rate else 0.0


def read_planned(
    beats: Iterable[Beat], model: str, layers: int, passed: Collection[str] = (), stuck: Collection[str] = ()
) -> list[PlannedNode]:
    """A model's nodes as the planner sees them; passed, stuck: as for NodeView.member."""
    return [view.member(layers, passed, stuck) for view in read_views(beats, model, layers)]


def costs_of(capacity: Capacity) -> CellCosts:
    """What a model's cells cost a node. Raises RequestError if what it has the weights of is no part of the model."""
    absent = _cells_without(capacity.present, capacity.layers)
    layer = max(1, capacity.layer_bytes)
    return CellCosts(
        capacity.layers,
        capacity.begin_bytes,
        layer,
        capacity.end_bytes,
        absent,
        weight=min(layer, capacity.weight_bytes),
    )


@lru_cache(4096)  # every beat says it again
def _cells_without(present: str, layers: int) -> frozenset[int]:
    held = parse_part(present, layers) if present else NOTHING
    return frozenset((whole(layers) - held).cells)


_Machine = tuple[str, str]  # machine and device; a node of unknown machine is one of its own


def _machine_of(beat: Beat) -> _Machine:
    return beat.machine or beat.node, beat.device


def _find_paces(beats: Sequence[Beat], model: str) -> dict[tuple[_Machine, str], Pace]:
    """What a model costs, by machine and variant."""
    claims: dict[tuple[_Machine, str], list[Claim]] = {}
    for beat in beats:
        for claim in beat.claims:
            if claim.model == model:
                claims.setdefault((_machine_of(beat), claim.variant), []).append(claim)
    return {
        place: Pace(
            _least(claim.layer_seconds for claim in ours),
            _least(claim.end_seconds for claim in ours),
            _least(claim.prompt_seconds for claim in ours),
            _least(claim.compute_seconds or claim.layer_seconds for claim in ours),
        )
        for place, ours in claims.items()
    }


def _least(figures: Iterable[float]) -> float:
    return min((figure for figure in figures if figure > 0), default=0.0)

"""What a node says of one model, read once: for the planner, the router, first claims and the user. Pure.

Nodes that share a machine's processors are equally fast, whatever they have measured: one that loads, or that waits while
another computes, measures itself slower than it is. So the least of their figures counts for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarm.errors import RequestError
from swarm.messages.base import ClaimState
from swarm.messages.members import Beat, Capacity, Claim
from swarm.parts import NOTHING, Part, join_parts, parse_part, whole
from swarm.plan.claims import CellCosts
from swarm.plan.routes import HOP_SECONDS, Server
from swarm.plan.shares import PlannedNode


@dataclass(frozen=True, slots=True)
class Pace:
    """What a model costs on a machine, in seconds; 0 where nobody there has measured it."""

    layer: float = 0.0
    end: float = 0.0
    prompt: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node and one model.

    parts: what it holds, by state. sessions: of the node of its machine that has most, for they slow all of them. budget,
    costs: for cells of the model; None where it will not move.
    """

    node: str
    parts: Mapping[ClaimState, Part]
    pace: Pace
    link_seconds: float
    sessions: int
    variant: str
    kind: str
    budget: int | None
    costs: CellCosts | None

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
            budget=self.budget or 0,
            costs=self.costs or CellCosts(layers, 0, 1, 0),
            layer_seconds=self.pace.layer,
            end_seconds=self.pace.end,
            prompt_seconds=self.pace.prompt,
            link_seconds=self.link_seconds,
            part=self.part("serving") if is_stuck else self.part("serving", "loading"),
            stays=self.costs is None or self.node in passed or is_stuck,
        )


def read_views(beats: Iterable[Beat], model: str, layers: int) -> list[NodeView]:
    """The nodes that hold some of a model or could, by id; what they say of another number of layers is another model's."""
    ordered = sorted(beats, key=lambda beat: beat.node)
    paces = _find_paces(ordered, model)
    sessions: dict[_Machine, int] = {}
    for beat in ordered:
        sessions[_machine_of(beat)] = max(sessions.get(_machine_of(beat), 0), beat.sessions)
    views: list[NodeView] = []
    for beat in ordered:
        try:
            view = _read(beat, model, layers, paces[_machine_of(beat)], sessions[_machine_of(beat)])
        except RequestError:  # what it says is no part of the model: others are not to suffer for it
            continue
        if view is not None:
            views.append(view)
    return views


def _read(beat: Beat, model: str, layers: int, pace: Pace, sessions: int) -> NodeView | None:
    """One node; None if it has nothing to do with the model. Raises RequestError for what is no part of it."""
    capacity = next((one for one in beat.capacities if (one.model, one.layers) == (model, layers)), None)
    claims = [one for one in beat.claims if (one.model, one.layers) == (model, layers)]
    if capacity is None and not claims:
        return None
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
        variant="" if served is None else served.variant,
        kind="" if served is None else served.kind,
        budget=None if capacity is None else capacity.budget_bytes,
        costs=None if capacity is None else costs_of(capacity),
    )


def read_planned(
    beats: Iterable[Beat], model: str, layers: int, passed: Collection[str] = (), stuck: Collection[str] = ()
) -> list[PlannedNode]:
    """A model's nodes as the planner sees them; passed, stuck: as for NodeView.member."""
    return [view.member(layers, passed, stuck) for view in read_views(beats, model, layers)]


def costs_of(capacity: Capacity) -> CellCosts:
    """What a model's cells cost a node. Raises RequestError if what it has the weights of is no part of the model."""
    layers = capacity.layers
    present = parse_part(capacity.present, layers) if capacity.present else NOTHING
    absent = frozenset((whole(layers) - present).cells)
    return CellCosts(layers, capacity.begin_bytes, max(1, capacity.layer_bytes), capacity.end_bytes, absent)


_Machine = tuple[str, str]  # machine and device; a node of unknown machine is one of its own


def _machine_of(beat: Beat) -> _Machine:
    return beat.machine or beat.node, beat.device


def _find_paces(beats: Sequence[Beat], model: str) -> dict[_Machine, Pace]:
    """What a model costs on each machine."""
    claims: dict[_Machine, list[Claim]] = {}
    for beat in beats:
        claims.setdefault(_machine_of(beat), []).extend(claim for claim in beat.claims if claim.model == model)
    return {
        machine: Pace(
            _least(claim.layer_seconds for claim in ours),
            _least(claim.end_seconds for claim in ours),
            _least(claim.prompt_seconds for claim in ours),
        )
        for machine, ours in claims.items()
    }


def _least(figures: Iterable[float]) -> float:
    return min((figure for figure in figures if figure > 0), default=0.0)

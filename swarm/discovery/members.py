"""What nodes say of themselves, in the planner's and the router's terms. Pure.

Nodes that share a machine's processors are equally fast, whatever they have measured: one that loads, or that waits while
another computes, measures itself slower than it is. So the least of their figures counts for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from swarm.messages.base import ClaimState
from swarm.messages.members import Beat, Capacity, Claim
from swarm.parts import NOTHING, Part, join_parts, parse_part, whole
from swarm.plan.claims import CellCosts
from swarm.plan.routes import HOP_SECONDS
from swarm.plan.shares import Member


def members_of(
    beats: Sequence[Beat], model: str, layers: int, passed: Collection[str] = (), stuck: Collection[str] = ()
) -> list[Member]:
    """The nodes that hold some of a model or could, as they describe themselves.

    passed: nodes to leave as they are. stuck: likewise, and what they load is not counted upon.
    """
    members: list[Member] = []
    paces = paces_of(beats, model)
    for beat in sorted(beats, key=lambda beat: beat.node):
        claims = [claim for claim in beat.claims if (claim.model, claim.layers) == (model, layers)]
        capacity = next((one for one in beat.capacities if (one.model, one.layers) == (model, layers)), None)
        if capacity is None and not claims:
            continue
        members.append(
            Member(
                node=beat.node,
                budget=0 if capacity is None else capacity.budget_bytes,
                costs=CellCosts(layers, 0, 1, 0) if capacity is None else costs_of(capacity),
                layer_seconds=paces[machine_of(beat)].layer,
                end_seconds=paces[machine_of(beat)].end,
                prompt_seconds=paces[machine_of(beat)].prompt,
                link_seconds=beat.link_seconds or HOP_SECONDS,
                part=claimed_part(beat, model, layers, "serving", *(() if beat.node in stuck else ("loading",))),
                stays=capacity is None or beat.node in passed or beat.node in stuck,
            )
        )
    return members


@dataclass(frozen=True, slots=True)
class Pace:
    """What a model costs on a machine, in seconds; 0 where nobody there has measured it."""

    layer: float = 0.0
    end: float = 0.0
    prompt: float = 0.0


Machine = tuple[str, str]  # machine and device; a node of unknown machine is one of its own


def machine_of(beat: Beat) -> Machine:
    return beat.machine or beat.node, beat.device


def paces_of(beats: Iterable[Beat], model: str) -> dict[Machine, Pace]:
    """What a model costs on each machine that serves it."""
    claims: dict[Machine, list[Claim]] = {}
    for beat in beats:
        claims.setdefault(machine_of(beat), []).extend(claim for claim in beat.claims if claim.model == model)
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


def costs_of(capacity: Capacity) -> CellCosts:
    """What a model's cells cost a node. Raises RequestError if what it has the weights of is no part of the model."""
    layers = capacity.layers
    present = parse_part(capacity.present, layers) if capacity.present else NOTHING
    absent = frozenset((whole(layers) - present).cells)
    return CellCosts(layers, capacity.begin_bytes, max(1, capacity.layer_bytes), capacity.end_bytes, absent)


def claimed_part(beat: Beat, model: str, layers: int, *states: ClaimState) -> Part:
    """What a node says that it holds of a model in any of these states."""
    parts = [
        parse_part(claim.part, layers)
        for claim in beat.claims
        if (claim.model, claim.layers) == (model, layers) and claim.state in states
    ]
    return join_parts(parts)

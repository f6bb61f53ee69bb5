"""What nodes say of themselves, in the planner's terms. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from swarm.messages import Beat, Capacity, ClaimState
from swarm.parts import NOTHING, Part, cells, join_parts, parse_part
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
                layer_seconds=max((claim.layer_seconds for claim in claims), default=0.0),
                end_seconds=max((claim.end_seconds for claim in claims), default=0.0),
                prompt_seconds=max((claim.prompt_seconds for claim in claims), default=0.0),
                link_seconds=beat.link_seconds or HOP_SECONDS,
                part=claimed_part(beat, model, layers, "serving", *(() if beat.node in stuck else ("loading",))),
                stays=capacity is None or beat.node in passed or beat.node in stuck,
            )
        )
    return members


def costs_of(capacity: Capacity) -> CellCosts:
    """What a model's cells cost a node. Raises RequestError if what it has the weights of is no part of the model."""
    layers = capacity.layers
    present = parse_part(capacity.present, layers) if capacity.present else NOTHING
    absent = frozenset(range(layers + 2)) - frozenset(cells(present, layers))
    return CellCosts(layers, capacity.begin_bytes, max(1, capacity.layer_bytes), capacity.end_bytes, absent)


def claimed_part(beat: Beat, model: str, layers: int, *states: ClaimState) -> Part:
    """What a node says that it holds of a model in any of these states."""
    parts = [
        parse_part(claim.part, layers)
        for claim in beat.claims
        if (claim.model, claim.layers) == (model, layers) and claim.state in states
    ]
    return join_parts(parts, layers)

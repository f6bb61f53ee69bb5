"""Members of a planned swarm: with their first claims, and after a plan's moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swarm.models import ModelKey
from swarm.parts import NOTHING
from swarm.plan.claims import Seat
from swarm.plan.moves import Plan
from swarm.plan.placement import place_all
from swarm.plan.shares import PlannedNode

MODEL = ModelKey("m", "")


def claim_first(members: Sequence[PlannedNode], layers: int) -> list[PlannedNode]:
    """The members with the claims that they take before anything is measured."""
    seats = [Seat(member.node, member.budget, {MODEL: member.costs}) for member in members]
    rows = place_all(seats, [], {MODEL.id: layers})
    return [replace(member, part=rows[member.node].get(MODEL, NOTHING)) for member in members]


def carry_out(plan: Plan, members: Sequence[PlannedNode], *, may_gap: bool = False) -> list[PlannedNode]:
    """The members after the plan's moves, each of which must be possible when its turn comes.

    may_gap: where the model has other gaps, so that nobody can use it, cells may be left to nobody.
    """
    parts = {member.node: member.part for member in members}
    of = {member.node: member for member in members}
    for move in plan.moves:
        assert parts[move.node] == move.before
        dropped = set(move.before.cells) - set(move.after.cells)
        others = {cell for node, part in parts.items() if node != move.node for cell in part.cells}
        has_gaps = len(others | set(move.before.cells)) < of[move.node].costs.layers + 2
        assert dropped <= others or (may_gap and has_gaps), f"{move} leaves cells to nobody"
        budget = of[move.node].budget
        assert of[move.node].costs.least_bytes(move.after, budget) <= budget
        parts[move.node] = move.after
    return [replace(member, part=parts[member.node]) for member in members]

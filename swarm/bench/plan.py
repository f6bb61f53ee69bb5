"""How long the planner takes for a large random swarm. No rival: nobody else plans moves."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from statistics import median

from swarm.models import ModelKey
from swarm.parts import NOTHING
from swarm.plan.claims import Seat
from swarm.plan.costs import CellCosts
from swarm.plan.moves import plan_moves
from swarm.plan.placement import place_all
from swarm.plan.shares import PlannedNode

MODEL = ModelKey("model", "")


def measure_planning(nodes: int, layers: int, rounds: int) -> dict[str, float]:
    """Milliseconds for a swarm that has nothing yet, and for one whose first claims are to be improved; medians."""
    unplaced: list[float] = []
    placed: list[float] = []
    for seed in range(rounds):
        members = _make_members(random.Random(seed), nodes, layers)
        unplaced.append(_time_plan(members, layers))
        seats = [Seat(member.node, member.budget, {MODEL: member.costs}) for member in members]
        rows = place_all(seats, [], {MODEL.id: layers})
        placed.append(
            _time_plan([replace(member, part=rows[member.node].get(MODEL, NOTHING)) for member in members], layers)
        )
    return {"unplaced_ms": median(unplaced), "placed_ms": median(placed), "longest_ms": max(unplaced + placed)}


def _make_members(rng: random.Random, nodes: int, layers: int) -> list[PlannedNode]:
    costs = CellCosts(layers, 5, 10, 15)
    return [
        PlannedNode(
            node=f"{rng.getrandbits(64):016x}",
            budget=rng.randint(20, 200),
            costs=costs,
            layer_seconds=rng.uniform(0.001, 0.01),
        )
        for _ in range(nodes)
    ]


def _time_plan(members: list[PlannedNode], layers: int) -> float:
    started = time.perf_counter()
    plan_moves(members, layers)
    return (time.perf_counter() - started) * 1000

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
LAYER_BYTES = 10


def measure_planning(nodes: int, layers: int, rounds: int) -> dict[str, float]:
    """Milliseconds for a swarm that has nothing yet, and for one whose first claims are to be improved; medians.

    The same where all nodes together cannot keep the model, and some read layers from disk.
    """
    figures: dict[str, float] = {}
    for name, largest in (("", 20 * LAYER_BYTES), ("streaming_", LAYER_BYTES * layers // nodes)):
        unplaced: list[float] = []
        placed: list[float] = []
        for seed in range(rounds):
            members = _make_members(random.Random(seed), nodes, layers, largest)
            unplaced.append(_time_plan(members, layers))
            seats = [Seat(member.node, member.budget, {MODEL: member.costs}) for member in members]
            rows = place_all(seats, [], {MODEL.id: layers})
            placed.append(
                _time_plan([replace(one, part=rows[one.node].get(MODEL, NOTHING)) for one in members], layers)
            )
        figures[f"{name}unplaced_ms"], figures[f"{name}placed_ms"] = median(unplaced), median(placed)
        figures[f"{name}longest_ms"] = max(unplaced + placed)
    return figures


def _make_members(rng: random.Random, nodes: int, layers: int, largest: int) -> list[PlannedNode]:
    """Most of them as large as that; if that is little, a few have more, and it is not enough for all layers."""
    costs = CellCosts(layers, 0, LAYER_BYTES, 15, weight=LAYER_BYTES - 2)
    is_short = largest < 2 * LAYER_BYTES
    return [
        PlannedNode(
            node=f"{rng.getrandbits(64):016x}",
            budget=8 * LAYER_BYTES if is_short and number < 12 else rng.randint(0 if is_short else 20, largest),
            costs=costs,
            layer_seconds=rng.uniform(0.001, 0.01),
            read_seconds=rng.uniform(0.01, 0.1),
        )
        for number in range(nodes)
    ]


def _time_plan(members: list[PlannedNode], layers: int) -> float:
    started = time.perf_counter()
    plan_moves(members, layers)
    return (time.perf_counter() - started) * 1000

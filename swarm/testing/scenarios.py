"""Seeded histories of a swarm: nodes that come, go, stall and lose touch under clients that ask; then quiet, and checks.

What happens is drawn from the seed alone. Safety is checked by the simulator at every event; here, what must be true in
the end: every answer whole and right, the model covered, nothing left to plan, no session left over.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from swarm.parts import part_of, part_of_cells
from swarm.plan.moves import Plan, plan_moves
from swarm.plan.shares import PlannedNode
from swarm.plan.streaming import share_out
from swarm.plan.view import read_planned
from swarm.testing.integer_model import MODEL_ID, IntegerModel
from swarm.testing.network import Weather
from swarm.testing.promises import BrokenPromiseError
from swarm.testing.simulator import Simulation

MODEL = IntegerModel(layers=8, layer_seconds=0.004, token_seconds=0.0001, end_seconds=0.008)
WAIT_SECONDS = 300.0  # of clients, for layers that are missing
TROUBLE_SECONDS = 20.0
QUIET_SECONDS = 200.0  # a node that was passed over is asked again after a minute
CALM_SECONDS = 6.0  # nobody moves: longer than from a look at the plan to the move's begin
LEASES_SECONDS = 6.0
VARIANTS = ("bfloat16", "bfloat16", "int4", "int4")  # of the nodes, one after another


def run_scenario(seed: int) -> Simulation:
    """One history. Raises BrokenPromiseError."""
    rng = random.Random(f"scenario {seed}")
    weather = Weather(
        most_seconds=rng.choice([0.002, 0.01, 0.05, 2.5]),
        loss=rng.choice([0.0, 0.0, 0.01, 0.03]),
        duplication=rng.choice([0.0, 0.02]),
    )
    simulation = Simulation(seed, MODEL, weather)
    start = rng.choices([_start_one_by_one, _start_twenty_at_once], [9, 1])[0]
    trouble = rng.choices([_make_trouble, _part_in_two, _quarrel], [6, 2, 2])[0]
    start(simulation, rng)
    simulation.run(rng.uniform(4, 8))
    for _ in range(rng.randint(1, 4)):
        prompt = [rng.randrange(1000) for _ in range(rng.choice([3, 40, 400]))]
        count = rng.choice([20, 100])
        given = [rng.randrange(90) for _ in range(rng.choice([0, 0, count // 2, count]))]
        simulation.ask(prompt, count, WAIT_SECONDS, given=given)
        simulation.run(rng.uniform(0, 1))
    trouble(simulation, rng)
    _calm(simulation)
    _check_end(simulation)
    return simulation


# How it starts --------------------------------------------------------------------------------------------------------


def _add_node(simulation: Simulation, rng: random.Random) -> str:
    up = [name for name, node in simulation.nodes.items() if node.is_up]
    beside = rng.choice(up) if up and rng.random() < 0.3 else None
    speed = rng.choice([0.5, 1.0, 1.0, 2.0, 4.0])
    present = rng.choice(["f", "f", "f", "f", "b 0-5", "3-8 e", "2-6"])
    is_small = simulation.seed % 3 == 0  # in some swarms all nodes together cannot keep the model
    name = simulation.add_node(
        budget_layers=rng.randint(2, 5) if is_small else rng.randint(2, 9),
        speed=speed,
        beside=beside,
        present=present,
        variant=VARIANTS[(simulation.seed + len(simulation.nodes)) % len(VARIANTS)],
        end_layers=rng.choice([0, 0, 1, 4]),
        streams=rng.random() < (0.8 if is_small else 0.3),
    )
    simulation.read_slowly(name, rng.choice([0.001, 0.01, 0.1]))
    if rng.random() < 0.4:
        simulation.slow_disk(name, rng.uniform(0.5, 15.0))
    return name


def _start_one_by_one(simulation: Simulation, rng: random.Random) -> None:
    for _ in range(rng.randint(2, 8)):
        _add_node(simulation, rng)
        simulation.run(rng.choice([0.0, 0.3, 2.0]))


def _start_twenty_at_once(simulation: Simulation, rng: random.Random) -> None:
    for _ in range(20):
        _add_node(simulation, rng)


# What happens ---------------------------------------------------------------------------------------------------------


def _make_trouble(simulation: Simulation, rng: random.Random) -> None:
    """Faults in quick succession, or rare enough that moves get under way between them."""
    longest_pause = rng.choice([1.0, 4.0, 16.0])
    for _ in range(rng.randint(4, 12)):
        rng.choice(_FAULTS)(simulation, rng)
        simulation.run(rng.uniform(0.2, longest_pause))


def _part_in_two(simulation: Simulation, rng: random.Random) -> None:
    """Each half goes on by itself, with what it has."""
    names = [*simulation.nodes, *simulation.clients]
    rng.shuffle(names)
    left = names[: len(names) // 2]
    for one in left:
        for other in names[len(names) // 2 :]:
            simulation.cut(one, other)
    simulation.run(rng.uniform(2, TROUBLE_SECONDS))
    simulation.heal()


def _quarrel(simulation: Simulation, rng: random.Random) -> None:
    """Nodes that hold the same cells begin to move away at the same moment, as if each had another view."""
    for _ in range(rng.randint(3, 8)):
        for name in rng.sample(list(simulation.nodes), min(len(simulation.nodes), rng.randint(2, 4))):
            start = rng.randrange(MODEL.layers + 1)
            simulation.move(name, part_of_cells(start, start + 1, MODEL.layers))
        simulation.run(rng.uniform(1.0, 6.0))


def _living(simulation: Simulation, rng: random.Random) -> str:
    """A node that is up; the last one is left alone by those who ask."""
    up = [name for name, node in simulation.nodes.items() if node.is_up]
    return rng.choice(up)


def _kill(simulation: Simulation, rng: random.Random) -> None:
    if sum(node.is_up for node in simulation.nodes.values()) > 2:
        simulation.kill(_living(simulation, rng))


def _restart(simulation: Simulation, rng: random.Random) -> None:
    for name, node in list(simulation.nodes.items()):
        if not node.is_up and rng.random() < 0.7:
            simulation.restart(name)


def _leave(simulation: Simulation, rng: random.Random) -> None:
    if sum(node.is_up for node in simulation.nodes.values()) > 2:
        simulation.stop(_living(simulation, rng))


def _join(simulation: Simulation, rng: random.Random) -> None:
    if len(simulation.nodes) < 24:
        _add_node(simulation, rng)


def _stall(simulation: Simulation, rng: random.Random) -> None:
    simulation.stall(_living(simulation, rng), rng.uniform(0.5, 10.0))


def _stick(simulation: Simulation, rng: random.Random) -> None:
    simulation.stick(_living(simulation, rng), rng.uniform(0.5, 10.0))


def _fail(simulation: Simulation, rng: random.Random) -> None:
    simulation.fail(_living(simulation, rng), rng.uniform(0.5, 10.0))


def _lose_disk(simulation: Simulation, rng: random.Random) -> None:
    simulation.lose_disk(_living(simulation, rng))


def _jump_clock(simulation: Simulation, rng: random.Random) -> None:
    simulation.jump_clock(_living(simulation, rng), rng.uniform(0.5, 30.0))


def _pair(simulation: Simulation, rng: random.Random) -> tuple[str, str]:
    name = _living(simulation, rng)
    others = [other for other in (*simulation.nodes, *simulation.clients) if other != name]
    return name, rng.choice(others)


def _reset(simulation: Simulation, rng: random.Random) -> None:
    left, right = _pair(simulation, rng)
    simulation.reset(left, right)


def _cut_one_way(simulation: Simulation, rng: random.Random) -> None:
    left, right = _pair(simulation, rng)
    simulation.cut(left, right, one_way=True)


def _heal(simulation: Simulation, rng: random.Random) -> None:
    del rng
    simulation.heal()


_FAULTS: list[Callable[[Simulation, random.Random], None]] = [
    _kill,
    _restart,
    _leave,
    _join,
    _stall,
    _stick,
    _fail,
    _lose_disk,
    _jump_clock,
    _reset,
    _cut_one_way,
    _heal,
]


# How it ends ----------------------------------------------------------------------------------------------------------


def _calm(simulation: Simulation) -> None:
    """Everything works again, nothing is lost any more, and there are nodes enough."""
    simulation.network.weather = Weather()
    simulation.heal()
    for name, node in list(simulation.nodes.items()):
        node.stalled_until = node.stuck_until = 0.0
        node.fails = lambda batch: False
        if node.is_up and node.machine.is_leaving:
            simulation.kill(name)
        simulation.restart(name)
    has_absent = any(node.machine.membership.local[node.model].costs.absent for node in simulation.nodes.values())
    if has_absent or not share_out(_read_nodes(simulation), MODEL.layers):
        # Without it there might be no room, or nobody with the weights of some layer.
        simulation.add_node(budget_layers=9)
    stop = simulation.now + QUIET_SECONDS
    while simulation.now < stop and not (
        simulation.are_answered() and not _missing(simulation) and _is_done(simulation)
    ):
        simulation.run(1.0)


def _is_done(simulation: Simulation) -> bool:
    claims = [claim for node in simulation.nodes.values() for claim in node.machine.claims.by_model.values()]
    is_moving = any(claim.is_moving for claim in claims)
    return simulation.is_settled(CALM_SECONDS) and not is_moving and not _plan(simulation).moves


def _plan(simulation: Simulation) -> Plan:
    """What the nodes that are up would do next, if all of them knew all."""
    return plan_moves(_read_nodes(simulation), MODEL.layers)


def _read_nodes(simulation: Simulation) -> list[PlannedNode]:
    beats = [node.machine.make_beat() for node in simulation.nodes.values() if node.is_up]
    return read_planned(beats, MODEL_ID, MODEL.layers)


def _missing(simulation: Simulation) -> list[int]:
    held = {cell for name in simulation.nodes for cell in simulation.part_of(name).cells}
    return [cell for cell in range(MODEL.layers + 2) if cell not in held]


def _check_end(simulation: Simulation) -> None:
    simulation.check_answers()
    missing = _missing(simulation)
    if missing:
        raise BrokenPromiseError(simulation.seed, f"{part_of(missing, MODEL.layers).describe()} missing in the end")
    plan = _plan(simulation)
    if plan.moves:
        raise BrokenPromiseError(simulation.seed, f"still to be moved in the end: {plan.moves}")
    simulation.run(LEASES_SECONDS)
    for name, node in simulation.nodes.items():
        if node.is_up and node.machine.sessions.sessions:
            raise BrokenPromiseError(simulation.seed, f"{name[:4]} still holds sessions")
        if node.is_up and node.engine is not None and node.engine.cached:
            raise BrokenPromiseError(simulation.seed, f"{name[:4]} still has caches of sessions that are gone")

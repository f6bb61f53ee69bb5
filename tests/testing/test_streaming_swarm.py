"""Swarms that read layers from disk: they cover what they cannot keep, go on without a node, and read less with one more."""

from __future__ import annotations

import pytest

from swarm.node.hops.schedule import Schedule
from swarm.parts import join_parts, whole
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation

LAYERS = 24
MODEL = IntegerModel(layers=LAYERS, layer_seconds=0.004, end_seconds=0.008)


def start(seed: int, *budgets: int, read_seconds: float = 0.02) -> tuple[Simulation, list[str]]:
    simulation = Simulation(seed, MODEL, Weather(most_seconds=0.002))
    names = [simulation.add_node(budget_layers=budget, streams=True) for budget in budgets]
    for name in names:
        simulation.read_slowly(name, read_seconds)
    simulation.run(8)
    return simulation, names


def is_covered(simulation: Simulation) -> bool:
    return join_parts(simulation.part_of(name) for name in simulation.nodes) == whole(LAYERS)


def count_read(simulation: Simulation) -> int:
    """Layers that come from disk each time."""
    claims = [
        claim for node in simulation.nodes.values() for claim in node.machine.claims.by_model.values() if node.is_up
    ]
    return sum(claim.loaded_as.count_read(claim.loaded.layers) for claim in claims)


@pytest.mark.parametrize("seed", range(4))
def test_three_nodes_that_cannot_keep_a_model_cover_it_at_once_and_are_visited_again_and_again(seed: int) -> None:
    simulation, names = start(seed, 6, 6, 6)
    assert is_covered(simulation)
    assert 0 < count_read(simulation) <= 15
    assert max(len(simulation.part_of(name).cell_ranges) for name in names) > 1
    for _ in range(3):
        simulation.ask([5, 6, 7], 40)
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()


@pytest.mark.parametrize("victim", range(3))
@pytest.mark.parametrize("end", ["kill", "stop", "lose_disk"])
def test_an_answer_goes_on_when_one_who_reads_is_gone(victim: int, end: str) -> None:
    """Between its visits or in the midst of one; those who are left can still hold the model."""
    for after in (0.0, 0.013, 0.05, 0.11):
        simulation, names = start(victim, 8, 8, 7)
        simulation.ask([5, 6, 7], 60, 120.0)
        simulation.run(0.5 + after)
        getattr(simulation, end)(names[victim])
        simulation.run(120, simulation.are_answered)
        simulation.check_answers()
        simulation.run(60)
        assert is_covered(simulation)


@pytest.mark.parametrize("victim", range(3))
@pytest.mark.parametrize("budgets", [(9, 9, 9), (6, 6, 6, 12)])
def test_those_who_are_left_take_over_all_at_once_for_an_answer_that_waits(
    budgets: tuple[int, ...], victim: int
) -> None:
    """Each has to drop some of what it keeps for what is missing: one after the other takes seven seconds and more."""
    simulation, names = start(victim, *budgets)
    for name in names:
        simulation.slow_disk(name, 0.5)
    simulation.run(12)
    assert is_covered(simulation)
    simulation.ask([5, 6, 7], 60)
    simulation.run(0.5)
    simulation.kill(names[victim])
    simulation.run(5.5)
    assert is_covered(simulation)
    simulation.run(20, simulation.are_answered)
    simulation.check_answers()


def test_who_joins_takes_over_what_others_read() -> None:
    simulation, _ = start(1, 8, 8)
    assert count_read(simulation) >= 10
    simulation.ask([5, 6, 7], 200, 120.0)
    simulation.add_node(budget_layers=10, streams=True)
    simulation.run(60)
    assert is_covered(simulation)
    assert count_read(simulation) == 0
    simulation.check_answers()


# How fast it is -------------------------------------------------------------------------------------------------------


def measure(simulation: Simulation, sessions: int, seconds: float = 30.0) -> float:
    """Tokens a second, once all are under way."""
    names = []
    for number in range(sessions):
        names.append(simulation.ask([1, 2, 3, number + 4], 2000))
        simulation.run(0.37)
    simulation.run(10)
    before = sum(len(simulation.clients[name].received) for name in names)
    simulation.run(seconds)
    return (sum(len(simulation.clients[name].received) for name in names) - before) / seconds


def test_windows_hide_what_is_read_behind_the_others() -> None:
    """Three nodes that all read: a token takes as long as one pass of the slowest, not the sum of what each reads."""
    simulation, _ = start(0, 6, 6, 6)
    simulation.run(60)
    claims = [next(iter(node.machine.claims.by_model.values())) for node in simulation.nodes.values()]
    longest = max(claim.loaded_as.count_read(claim.loaded.layers) for claim in claims) * 0.02
    assert 1 / measure(simulation, 1) < 1.15 * max(longest, LAYERS * MODEL.layer_seconds + MODEL.end_seconds)


def test_sessions_share_a_pass_over_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that they throw away what was read ahead for each other."""
    rates = [measure(start(0, 6, 6, 6)[0], sessions) for sessions in (1, 4)]
    assert rates[1] > 3.6 * rates[0]
    monkeypatch.setattr(Schedule, "_begins_pass", lambda self, hop: False)
    assert measure(start(0, 6, 6, 6)[0], 4) < 2.5 * rates[0]

"""Where a batch takes long whatever it carries, as over layers from disk, steps that are nearly back are waited for."""

from __future__ import annotations

import pytest

from swarm.node.hops.schedule import Schedule
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation

MODEL = IntegerModel(layers=12, layer_seconds=0.05, token_seconds=0.0002, end_seconds=0.01)
SESSIONS = 8


def measure(speeds: tuple[float, ...], ends_early: bool = False) -> float:
    """Tokens a second of sessions that begin one after another, in those of one stream alone. ends_early: of half."""
    simulation = Simulation(3, MODEL, Weather())
    for part, speed in zip(["b 0-4", "4-8", "8-12 e"], speeds, strict=True):
        simulation.add_node(part, budget_layers=12, speed=speed)
    simulation.run(6)
    names = []
    for number in range(SESSIONS):
        names.append(simulation.ask([1, 2, 3, number + 4], 8 if ends_early and number % 2 else 400))
        simulation.run(0.37)
    simulation.run(40)
    before = sum(len(simulation.clients[name].received) for name in names)
    simulation.run(40)
    tokens = sum(len(simulation.clients[name].received) for name in names) - before
    alone = sum(4 * MODEL.layer_seconds / speed for speed in speeds)
    return tokens / 40 * alone


@pytest.mark.parametrize("speeds", [(0.2, 2, 2), (2, 0.1, 4), (4, 4, 0.1)], ids=str)
def test_one_pass_serves_all_sessions(speeds: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise they fall into groups that wait for each other's passes."""
    assert measure(speeds) > 0.9 * SESSIONS
    monkeypatch.setattr(Schedule, "gathers", lambda self, ready, now: False)
    assert measure(speeds) < 0.75 * SESSIONS


def test_nodes_that_are_equally_fast_do_not_wait_for_each_other() -> None:
    assert measure((1, 1, 1)) > 0.9 * SESSIONS
    assert measure((0.2, 0.2, 0.2)) > 0.9 * SESSIONS


def test_a_session_that_ends_holds_nobody_up() -> None:
    assert measure((0.2, 2, 2), ends_early=True) > 0.9 * SESSIONS / 2

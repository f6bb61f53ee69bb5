"""A chain whose tokens take forty seconds each, as where most layers come from a slow disk: nobody gives it up."""

from __future__ import annotations

import pytest

from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation

MODEL = IntegerModel(layers=8, layer_seconds=5.0, token_seconds=0.01, end_seconds=0.01)
TOKEN_SECONDS = 40.0
HALVES = ["b 0-4", "4-8 e"]


def start(parts: list[str]) -> tuple[Simulation, list[str]]:
    simulation = Simulation(1, MODEL, Weather())
    names = [simulation.add_node(part, budget_layers=8) for part in parts]
    simulation.run(5)
    return simulation, names


@pytest.mark.parametrize("parts", [["f"], HALVES, [*HALVES, *HALVES]], ids=len)
def test_an_answer_comes_without_a_second_try(parts: list[str]) -> None:
    simulation, _ = start(parts)
    client = simulation.clients[simulation.ask([1, 2, 3, 4, 5], 6)]
    simulation.run(6 * TOKEN_SECONDS * 1.2, simulation.are_answered)
    simulation.check_answers()
    assert client.machine.lead.attempts == 1


def test_a_node_that_dies_in_mid_token_is_left_at_once() -> None:
    simulation, _ = start([*HALVES, *HALVES])
    client = simulation.clients[simulation.ask([1, 2, 3, 4, 5], 4)]
    simulation.run(1.5 * TOKEN_SECONDS)
    simulation.kill(client.machine.route[1].node)
    simulation.run(4 * TOKEN_SECONDS, simulation.are_answered)
    simulation.check_answers()


def test_a_node_that_hangs_is_left_within_seconds() -> None:
    simulation, _ = start(["f", "f"])
    client = simulation.clients[simulation.ask([1, 2, 3, 4, 5], 4)]
    simulation.run(1.5 * TOKEN_SECONDS)
    first = client.machine.route[0].node
    simulation.stick(first, 1000.0)
    simulation.run(10.0)
    assert client.machine.route[0].node != first
    simulation.run(5 * TOKEN_SECONDS, simulation.are_answered)
    simulation.check_answers()

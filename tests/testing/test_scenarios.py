"""Whole histories: some seeds of `make simulate`, and that it finds what it is there to find."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from msgspec import structs

from swarm.client.transcript import Transcript
from swarm.node.claims.moves import MoveRunner
from swarm.node.hops.hop import HopSession
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.scenarios import run_scenario
from swarm.testing.simulator import Simulation

MOST_SEEDS = 200


@pytest.mark.parametrize("seed", range(20))
def test_a_history_keeps_every_promise(seed: int) -> None:
    run_scenario(seed)


def finds(failure: str) -> bool:
    """Whether some history fails so; others may fail in other ways before."""
    for seed in range(MOST_SEEDS):
        try:
            run_scenario(seed)
        except Exception as error:
            if failure in str(error):
                return True
    return False


def test_without_holds_a_layer_is_dropped_that_nobody_else_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MoveRunner, "_is_held", lambda self, moving, dropped: True)
    assert finds("which nobody else serves")


def test_without_the_fence_steps_run_where_they_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HopSession, "judge", lambda self, span: None)
    assert finds("the step is at")


def test_without_the_clients_index_check_tokens_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Transcript.take
    monkeypatch.setattr(
        Transcript, "take", lambda self, message: take(self, structs.replace(message, index=len(self.ids)))
    )
    assert finds(" got ")


def test_a_failing_seed_can_be_replayed_by_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swarm.testing", "--seed", "3"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("seed 3: all promises kept")


def test_a_seed_does_the_same_in_every_process() -> None:
    """Python orders sets of strings differently in each."""
    seeds = "for seed in (2, 8): one = run_scenario(seed); print(one.now, one.rng.random())"
    command = [sys.executable, "-c", f"from swarm.testing.scenarios import run_scenario\n{seeds}"]
    said = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.long
def test_two_hundred_nodes_find_their_places() -> None:
    model = IntegerModel(layers=60, layer_seconds=0.001)
    simulation = Simulation(0, model, Weather())
    for _ in range(200):
        simulation.add_node(budget_layers=simulation.rng.randint(1, 6))
    simulation.run(5)
    simulation.ask([1, 2, 3], 5, wait_seconds=20)
    simulation.run(5, simulation.are_answered)
    simulation.check_answers()

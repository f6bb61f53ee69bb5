"""Seeded swarms of the real machines on a hostile network. A failing run prints its seed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.client.chain import LINK_GRACE_SECONDS
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation

MODEL = IntegerModel(layers=8, layer_seconds=0.001, token_seconds=0.0001)
PARTS = ["b 0-3", "3-6", "6-8 e"]
ROUGH = Weather(most_seconds=0.05, loss=0.03, duplication=0.05)


def simulate(seed: int, weather: Weather, kills: int = 0) -> Simulation:
    """Two of each part, four clients; some nodes die. Returns once every client is done."""
    simulation = Simulation(seed, MODEL, weather)
    nodes = [simulation.add_node(part) for part in (*PARTS, *PARTS)]
    simulation.run(5)
    for number in range(4):
        prompt = [simulation.rng.randrange(1000) for _ in range(5 + 50 * number)]
        simulation.ask(prompt, 30)
    for victim in simulation.rng.sample(nodes[:3], kills):
        simulation.run(simulation.rng.uniform(0, 2))
        simulation.kill(victim)

    def is_over() -> bool:
        return all(client.finished or client.error for client in simulation.clients.values())

    simulation.run(120, is_over)
    for client in simulation.clients.values():
        assert client.error is None, f"seed {seed}: {client.error}"
        assert client.received == client.expected, f"seed {seed}: {len(client.received)} tokens"
    return simulation


@pytest.mark.parametrize("seed", range(10))
def test_a_quiet_network_delivers_every_answer(seed: int) -> None:
    simulation = simulate(seed, Weather())
    assert sum(len(client.received) for client in simulation.clients.values()) == 4 * 30


@pytest.mark.parametrize("seed", range(20))
def test_lost_repeated_and_reordered_messages_change_no_token(seed: int) -> None:
    simulate(seed, ROUGH)


@pytest.mark.parametrize("seed", range(20))
def test_a_dead_hop_costs_a_pause_and_no_token(seed: int) -> None:
    simulate(seed, Weather(), kills=1)


@pytest.mark.parametrize("at", range(3))
def test_a_hop_whose_port_nobody_listens_at_any_more_is_left_at_once(at: int) -> None:
    """It is not waited for as one is whose connection only broke."""
    simulation = Simulation(at, MODEL, Weather())
    for part in (*PARTS, *PARTS):
        simulation.add_node(part)
    simulation.run(5)
    simulation.ask([1, 2, 3], 100)
    simulation.run(0.5)
    (client,) = simulation.clients.values()
    simulation.kill(client.machine.route[at].node)
    simulation.run(10, simulation.are_answered)
    simulation.check_answers()
    assert client.machine.attempts == 2
    assert client.times[1] - client.times[0] < LINK_GRACE_SECONDS
    assert client.longest_gap < LINK_GRACE_SECONDS


def test_the_same_seed_does_the_same() -> None:
    assert simulate(3, ROUGH).now == simulate(3, ROUGH).now


@pytest.mark.parametrize("seed", range(5))
def test_unplaced_nodes_cover_the_model(seed: int) -> None:
    simulation = Simulation(seed, MODEL, Weather())
    for _ in range(6):
        simulation.run(simulation.rng.uniform(0, 1))
        simulation.add_node(budget_layers=3)
    simulation.run(10)
    simulation.ask([1, 2, 3], 10)
    simulation.run(20)
    assert all(client.finished == "length" for client in simulation.clients.values())


# Moves ----------------------------------------------------------------------------------------------------------------

SLOW = IntegerModel(layers=12, layer_seconds=0.004, token_seconds=0.0001, end_seconds=0.016)
GAP_SECONDS = 0.3  # between two tokens, where chains change by choice


def settle(simulation: Simulation, seconds: float = 60.0) -> None:
    """Until nobody has moved for a while, first claims and first looks at the plan included."""
    simulation.run(8)
    simulation.run(seconds, lambda: simulation.is_settled(5.0))
    assert simulation.is_settled(5.0), f"seed {simulation.seed}: still moving after {seconds} s"


def check_unbroken(simulation: Simulation, most: float = GAP_SECONDS) -> None:
    """Every answer is whole and right, and came without a pause once it had begun."""
    simulation.run(120, simulation.are_answered)
    simulation.check_answers()
    for client in simulation.clients.values():
        assert client.longest_gap < most, f"seed {simulation.seed}: {client.longest_gap:.2f} s without a token"


@pytest.mark.parametrize("seed", range(10))
def test_a_faster_node_takes_its_share_under_a_running_answer(seed: int) -> None:
    simulation = Simulation(seed, SLOW, Weather())
    for _ in range(3):
        simulation.add_node(budget_layers=6)
    simulation.run(8)
    simulation.ask([1, 2, 3], 600)
    simulation.run(2)
    fast = simulation.add_node(budget_layers=12, speed=4.0)
    settle(simulation)
    assert simulation.part_of(fast).layer_count == 12
    check_unbroken(simulation)


@pytest.mark.parametrize("seed", range(10))
def test_layers_move_between_nodes_that_are_there(seed: int) -> None:
    """The fast one came first and took what was missing then; it has room for more than its share of that."""
    simulation = Simulation(seed, SLOW, Weather())
    simulation.add_node("b 0-3 6-12 e")
    simulation.add_node(budget_layers=9, speed=8.0)
    simulation.run(10)
    simulation.ask([1, 2, 3], 600)
    settle(simulation)
    check_unbroken(simulation)


@pytest.mark.parametrize("seed", range(10))
def test_a_node_that_moves_away_from_all_that_it_serves_lets_its_sessions_go_first(seed: int) -> None:
    """Three equal nodes; two hold the first half, but the second takes longer, for the end is in it."""
    simulation = Simulation(seed, SLOW, Weather())
    for _ in range(3):
        simulation.add_node(budget_layers=6)
    simulation.run(3.0)
    for _ in range(2):
        simulation.ask([1, 2, 3], 200)
        simulation.run(1.2)  # so that the next one sees who is busy
    first = {name: simulation.part_of(name) for name in simulation.nodes}
    settle(simulation)
    assert first != {name: simulation.part_of(name) for name in simulation.nodes}
    check_unbroken(simulation)


@pytest.mark.parametrize("seed", range(30))
def test_nodes_of_all_sizes_that_join_disturb_no_answer(seed: int) -> None:
    """Each is followed by moves of others, and answers to long prompts change chains side by side."""
    simulation = Simulation(seed, replace(SLOW, layers=8), Weather())
    rng = simulation.rng

    def join(count: int, longest_pause: float) -> None:
        for _ in range(count):
            simulation.add_node(budget_layers=rng.randint(2, 9), speed=rng.choice([0.5, 1.0, 1.0, 2.0, 4.0]))
            simulation.run(rng.uniform(0.0, longest_pause))

    join(6, 2.0)
    simulation.run(20)
    for _ in range(3):
        simulation.ask([rng.randrange(1000) for _ in range(rng.choice([3, 40, 400]))], rng.choice([300, 600]))
        simulation.run(rng.uniform(0.0, 2.0))
    join(4, 6.0)
    check_unbroken(simulation, most=1.5)


@pytest.mark.parametrize("seed", range(10))
def test_nodes_with_a_part_of_the_files_serve_what_they_have(seed: int) -> None:
    simulation = Simulation(seed, SLOW, Weather())
    for present in ("b 0-4", "4-8", "8-12 e", "2-10"):
        simulation.add_node(budget_layers=12, present=present)
    simulation.run(8)
    simulation.ask([1, 2, 3], 200)
    simulation.add_node(budget_layers=12, present="4-12 e", speed=4.0)  # which plans would have hold everything
    settle(simulation)
    check_unbroken(simulation)


@pytest.mark.parametrize("seed", range(10))
def test_a_node_that_joins_on_the_same_machine_costs_an_answer_no_change(seed: int) -> None:
    """It has measured itself as twice as fast: it did so while the others were waiting."""
    simulation = Simulation(seed, SLOW, Weather())
    first = simulation.add_node(budget_layers=6)
    simulation.add_node(budget_layers=6, beside=first)
    simulation.run(8)
    simulation.ask([1, 2, 3], 400)
    simulation.run(2)
    simulation.add_node(budget_layers=12, speed=2.0, beside=first)
    settle(simulation)
    check_unbroken(simulation)
    (client,) = simulation.clients.values()
    assert client.machine.attempts <= 2

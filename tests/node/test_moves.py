"""A node's own moves: what is dropped has been promised by another, and of two that want the same one waits."""

from __future__ import annotations

import pytest

from swarm.messages.members import AskPeers, Claim
from swarm.messages.sessions import Refused
from swarm.node.claims.holds import HOLD_SECONDS
from swarm.node.claims.order import DRAIN_SECONDS, STUCK_SECONDS, MoveOrder
from swarm.node.effects import Answer
from swarm.node.events import PartFailed
from swarm.node.machine import NodeMachine
from swarm.node.peers.membership import Membership
from swarm.node.this_node import ThisNode
from swarm.parts import parse_part
from swarm.testing.integer_model import MODEL_ID, MODEL_KEY, IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from swarm.wire.events import Arrived, Asker
from tests.beats import make_beat

MODEL = IntegerModel(layers=8, layer_seconds=0.001)
HALVES = ["b 0-4", "4-8 e"]


def start(seed: int, parts: list[str]) -> tuple[Simulation, list[str]]:
    """Nodes that were told what to serve, so that no plan moves them."""
    simulation = Simulation(seed, MODEL, Weather())
    names = [simulation.add_node(part, budget_layers=8) for part in parts]
    simulation.run(3)
    return simulation, names


def start_draining(tokens: int) -> tuple[Simulation, str, str]:
    """One of two that serve the same begins to move, and has a session that cannot change to the other."""
    simulation, names = start(1, [HALVES[0], HALVES[0], HALVES[1]])
    simulation.ask([1, 2, 3], tokens)
    simulation.run(1)
    (client,) = simulation.clients.values()
    mover = client.machine.route[0].node
    other = next(name for name in names[:2] if name != mover)
    simulation.cut(next(iter(simulation.clients)), other)
    simulation.move(mover, parse_part(HALVES[1], MODEL.layers))
    return simulation, mover, other


@pytest.mark.parametrize("seed", range(10))
def test_of_two_that_would_leave_the_same_layers_the_lower_id_goes(seed: int) -> None:
    simulation, names = start(seed, [HALVES[0], HALVES[0], HALVES[1]])
    for name in names[:2]:
        simulation.move(name, parse_part(HALVES[1], MODEL.layers))
    simulation.run(10)
    first, second = sorted(names[:2])
    assert str(simulation.part_of(first)) == HALVES[1]
    assert simulation.part_of(second).covers(parse_part(HALVES[0], MODEL.layers))
    assert simulation.nodes[first].machine.make_beat().moves == 1


def test_nobody_drops_what_no_other_has_promised_to_serve() -> None:
    """The other holder hangs: it is there, and says nothing."""
    simulation, names = start(1, [HALVES[0], HALVES[0], HALVES[1]])
    simulation.stall(names[1], 3.0)
    simulation.move(names[0], parse_part(HALVES[1], MODEL.layers))
    simulation.run(2.5)
    assert simulation.part_of(names[0]).covers(parse_part(HALVES[0], MODEL.layers))
    simulation.run(5)
    assert str(simulation.part_of(names[0])) == HALVES[1]


def test_what_drains_is_served_again_if_the_one_who_promised_dies() -> None:
    simulation, mover, other = start_draining(4000)
    simulation.run(2)
    assert not simulation.part_of(mover).covers(parse_part(HALVES[0], MODEL.layers))
    simulation.kill(other)
    simulation.run(2)
    assert simulation.part_of(mover).covers(parse_part(HALVES[0], MODEL.layers))
    held = {cell for name in simulation.nodes for cell in simulation.part_of(name).cells}
    assert held == set(range(MODEL.layers + 2))


def test_what_drains_is_served_again_if_the_one_who_promised_leaves() -> None:
    """It is told to leave while it has a session, so that it is there for some seconds more, and serves until then."""
    simulation, _ = start(1, [HALVES[0], HALVES[0], HALVES[1]])
    for _ in range(2):
        simulation.ask([1, 2, 3], 4000)
        simulation.run(2)
    first, second = simulation.clients.values()
    mover, other = (client.machine.route[0].node for client in (first, second))
    assert mover != other
    for name, node in zip(simulation.clients, (other, mover), strict=True):
        simulation.cut(name, node)  # neither session can change chains
    simulation.move(mover, parse_part(HALVES[1], MODEL.layers))
    simulation.run(2)
    assert not simulation.part_of(mover).covers(parse_part(HALVES[0], MODEL.layers))
    simulation.stop(other)
    simulation.run(0.5)
    assert simulation.nodes[other].is_up, "it still answers"
    assert simulation.part_of(mover).covers(parse_part(HALVES[0], MODEL.layers))


def test_a_promise_lasts_as_long_as_sessions_need_to_leave() -> None:
    """Longer than one promise does: it is asked for again, and the one who gave it drops nothing meanwhile."""
    simulation, mover, other = start_draining(6000)
    simulation.run(HOLD_SECONDS + 10)
    assert simulation.nodes[mover].machine.claims.by_model[MODEL_KEY].is_moving, "its session is still there"
    simulation.move(other, parse_part(HALVES[1], MODEL.layers))
    simulation.run(DRAIN_SECONDS)
    assert str(simulation.part_of(mover)) == HALVES[1]
    assert simulation.part_of(other).covers(parse_part(HALVES[0], MODEL.layers))


def test_a_part_that_cannot_be_loaded_ends_the_move_and_what_was_served_still_is() -> None:
    simulation, names = start(1, [HALVES[0], HALVES[0], HALVES[1]])
    simulation.slow_disk(names[0], 100.0)
    simulation.move(names[0], parse_part(HALVES[1], MODEL.layers))
    simulation.run(1)
    machine = simulation.nodes[names[0]].machine
    assert machine.claims.by_model[MODEL_KEY].is_moving
    machine.handle(PartFailed(MODEL_KEY, "the disk is gone"), simulation.now)
    assert not machine.claims.by_model[MODEL_KEY].is_moving
    assert machine.make_beat().moves == 0
    assert str(simulation.part_of(names[0])) == HALVES[0]


def test_whose_move_failed_is_counted_on_again_once_nodes_come_or_go() -> None:
    """It may have failed for want of the one that is gone, and nobody else may have what that one served."""
    order, mover, other = MoveOrder(), make_beat("a"), make_beat("b")
    order.watch([mover, other], 1.0)
    order.pass_over(mover.node, 1.0)
    order.watch([other, mover], 2.0)
    assert order.is_passed_over(mover.node, 2.0)
    order.watch([mover], 3.0)
    assert not order.is_passed_over(mover.node, 3.0)
    order.pass_over(mover.node, 3.0)
    order.watch([mover, make_beat("b", incarnation=other.incarnation + 1)], 4.0)
    assert not order.is_passed_over(mover.node, 4.0)


def test_a_beat_that_claims_what_no_model_has_is_refused() -> None:
    me = ThisNode(node="a" * 16, incarnation=1, name="a", device="cpu", memory_total=1, budget=1, models=())
    machine = NodeMachine(Membership(me, [], 0.0), {})
    claim = Claim(model=MODEL_ID, name="integers", layers=8, part="40-50", state="serving")
    beat = make_beat("b", claim)
    (answer,) = machine.handle(Arrived(Asker("b" * 16, "control", b"b"), beat), 1.0)
    assert isinstance(answer, Answer)
    assert isinstance(answer.message, Refused)
    assert answer.message.code == "BAD_MESSAGE"
    assert machine.membership.table.live(1.0) == []


FAST = IntegerModel(layers=12, layer_seconds=0.004)


def add_fast_node(seed: int = 1) -> tuple[Simulation, str]:
    """Three nodes that serve the model, and one that is four times as fast and has room for all of it."""
    simulation = Simulation(seed, FAST, Weather())
    for _ in range(3):
        simulation.add_node(budget_layers=6)
    simulation.run(15)
    return simulation, simulation.add_node(budget_layers=12, speed=4.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_load_that_never_ends_holds_nobody_elses_move_up_for_long(seed: int) -> None:
    simulation, fast = add_fast_node(seed)
    stuck = simulation.add_node(budget_layers=12)
    simulation.slow_disk(stuck, 1e9)
    simulation.run(STUCK_SECONDS + 30)
    assert simulation.nodes[stuck].machine.claims.by_model[MODEL_KEY].is_moving, "it does not load"
    assert simulation.part_of(fast).layer_count == 12


def test_nodes_that_have_to_change_places_do_so_where_no_token_comes_as_it_is() -> None:
    """What each drops first nobody else serves."""
    simulation = Simulation(1, MODEL, Weather())
    all_of_it = simulation.add_node("f", budget_layers=8)
    large, small = (
        simulation.add_node(budget_layers=8, end_layers=8),
        simulation.add_node(budget_layers=3, end_layers=1),
    )
    simulation.run(3)
    simulation.move(large, parse_part("e", MODEL.layers))
    simulation.move(small, parse_part("b 0-3", MODEL.layers))
    simulation.run(1)
    assert [str(simulation.part_of(name)) for name in (large, small)] == ["e", "b 0-3"]
    simulation.kill(all_of_it)
    simulation.ask([1, 2, 3], 20, wait_seconds=60.0)
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()
    assert [str(simulation.part_of(name)) for name in (large, small)] == ["b 0-8", "6-8 e"]


def test_those_who_ask_for_the_peer_table_make_no_intent_older() -> None:
    """An intent stands for two rounds of beats, however many words are asked for between them."""
    simulation, _ = add_fast_node()
    asker = Asker("c" * 16, "control", b"c")
    since: dict[str, float] = {}
    waited: list[float] = []
    stop = simulation.now + 20
    while simulation.now < stop:
        simulation.run(0.02)
        for name, node in simulation.nodes.items():
            for _ in range(3):
                list(node.machine.handle(Arrived(asker, AskPeers()), simulation.now))
            if not node.machine.moves.intent.is_empty():
                since.setdefault(name, simulation.now)
            elif name in since:
                begun = since.pop(name)
                waited += [simulation.now - begun] if node.machine.moves.is_moving else []
    assert waited, "nobody has moved"
    assert min(waited) > 2.0

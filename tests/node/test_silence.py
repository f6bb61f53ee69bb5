"""Addresses where nobody answers: news only where somebody should, and never was."""

from __future__ import annotations

from swarm.messages.members import Goodbye
from swarm.node.effects import HangUp, Report
from swarm.node.events import Started
from swarm.node.machine import NodeMachine
from swarm.node.peers.membership import Membership
from swarm.node.this_node import ThisNode
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from swarm.wire.events import UNREACHABLE, Arrived, Asker, LinkFailed

REMEMBERED, NAMED = "10.0.0.8:7700", "10.0.0.9:7700"


def is_told(machine: NodeMachine, address: str, now: float) -> bool:
    effects = machine.handle(LinkFailed(address, "control", UNREACHABLE), now)
    return any(isinstance(effect, Report) and effect.kind == "blocked" for effect in effects)


def test_a_remembered_address_may_be_silent_one_that_the_user_named_may_not() -> None:
    me = ThisNode(node="a" * 16, incarnation=1, name="a", device="cpu", memory_total=1, budget=1, models=())
    machine = NodeMachine(Membership(me, [], 0.0), {})
    machine.handle(Started(7701, {}, [NAMED], [REMEMBERED]), 0.0)
    assert not is_told(machine, REMEMBERED, 5.0)
    assert is_told(machine, NAMED, 5.0)


def test_nobody_wonders_that_a_node_which_said_goodbye_is_gone() -> None:
    simulation = Simulation(1, IntegerModel(layers=8), Weather())
    names = [simulation.add_node(part) for part in ("b 0-4", "4-8 e")]
    simulation.run(3)
    leaving, staying = (simulation.nodes[name].machine for name in names)
    goodbye = Goodbye(node=names[0], incarnation=leaving.membership.me.incarnation)
    said = Arrived(Asker(names[0], "control", b"x"), goodbye)
    address = simulation.nodes[names[0]].address
    assert HangUp(address) in list(staying.handle(said, simulation.now))
    assert not is_told(staying, address, simulation.now + 5)
    assert not staying.membership.links

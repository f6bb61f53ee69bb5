"""A node with weights of two models: what befalls one leaves the other alone."""

from __future__ import annotations

from msgspec import structs

from swarm.node.effects import Effect, Exit, Load
from swarm.node.events import PartFailed, Started
from swarm.node.machine import NodeMachine
from swarm.node.peers.membership import Membership
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import whole
from swarm.plan.claims import CellCosts
from swarm.testing.integer_model import MODEL_ID, IntegerModel

LAYERS = 8
MODELS = [MODEL_ID, "2" * 32]


def start() -> tuple[NodeMachine, list[Effect]]:
    """A node that loads two whole models, and what it does first."""
    costs = CellCosts(LAYERS, 1, 1, 1)
    local = tuple(LocalModel(model, model[0], costs) for model in MODELS)
    me = ThisNode(node="a" * 16, incarnation=1, name="a", device="cpu", memory_total=99, budget=99, models=local)
    card = IntegerModel(layers=LAYERS).card
    cards = {model: structs.replace(card, model=model) for model in MODELS}
    machine = NodeMachine(Membership(me, [], 0.0), cards)
    return machine, list(machine.handle(Started(7701, dict.fromkeys(MODELS, whole(LAYERS)), []), 0.0))


def test_one_that_cannot_be_loaded_is_given_up_and_the_other_goes_on() -> None:
    machine, effects = start()
    assert [effect.model for effect in effects if isinstance(effect, Load)] == MODELS
    effects = list(machine.handle(PartFailed(MODELS[0], "the disk is gone"), 1.0))
    assert not any(isinstance(effect, Exit) for effect in effects)
    assert list(machine.claims.by_model) == MODELS[1:]
    assert machine.membership.local[MODELS[0]].present.is_empty()


def test_a_node_that_has_no_other_ends() -> None:
    machine, _ = start()
    ends = [
        any(isinstance(effect, Exit) for effect in machine.handle(PartFailed(model, "the disk is gone"), 1.0))
        for model in MODELS
    ]
    assert ends == [False, True]

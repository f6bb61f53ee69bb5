"""A node with weights of several models and variants: what befalls one leaves the others alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec import structs

from swarm.messages.sessions import Opened, Refused
from swarm.messages.tensors import ids_tensor
from swarm.models import ModelKey
from swarm.node.effects import Answer, Effect, Exit, Forget, Load, Report
from swarm.node.events import PartFailed, PartLoaded, Started, WeightsLost
from swarm.node.machine import NodeMachine
from swarm.node.peers.membership import Membership
from swarm.node.residence import ALL_KEPT
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import parse_part, whole
from swarm.plan.costs import CellCosts
from swarm.testing.integer_model import MODEL_ID, IntegerEngine, IntegerModel
from swarm.wire.events import Arrived, Asker
from tests.opens import make_open

LAYERS = 8
MODEL = IntegerModel(layers=LAYERS)
MODELS = [ModelKey(MODEL_ID, "bfloat16"), ModelKey(MODEL_ID, "int4"), ModelKey("2" * 32, "int4")]
LARGE, SMALL, _ = MODELS
CLIENT = Asker("c" * 16, "control", b"")


def start() -> tuple[NodeMachine, list[Effect]]:
    """A node that loads all of them whole, and what it does first."""
    costs = CellCosts(LAYERS, 1, 1, 1)
    local = tuple(LocalModel(model, model.variant, costs, kv_layer_bytes=1) for model in MODELS)
    me = ThisNode(
        node="a" * 16, incarnation=1, name="a", device="cpu", memory_total=99_999, budget=99_999, models=local
    )
    cards = {model.id: structs.replace(MODEL.card, model=model.id) for model in MODELS}
    machine = NodeMachine(Membership(me, [], 0.0), cards)
    return machine, list(machine.handle(Started(7701, dict.fromkeys(MODELS, whole(LAYERS)), []), 0.0))


def test_one_that_cannot_be_loaded_is_given_up_and_the_others_go_on() -> None:
    machine, effects = start()
    assert [effect.model for effect in effects if isinstance(effect, Load)] == MODELS
    effects = list(machine.handle(PartFailed(SMALL, "the disk is gone"), 1.0))
    assert not any(isinstance(effect, Exit) for effect in effects)
    assert list(machine.claims.by_model) == [model for model in MODELS if model != SMALL]
    assert [model for model, local in machine.membership.local.items() if local.present.is_empty()] == [SMALL]


def test_a_node_that_has_no_other_ends() -> None:
    machine, _ = start()
    ends = [
        any(isinstance(effect, Exit) for effect in machine.handle(PartFailed(model, "the disk is gone"), 1.0))
        for model in MODELS
    ]
    assert ends == [False, False, True]


# Memory ---------------------------------------------------------------------------------------------------------------


def start_small(budget: int, other_weight: int = 10) -> tuple[NodeMachine, ModelKey, ModelKey]:
    """A node that keeps one model whole, with all its memory, and has the weights of another.

    other_weight: of a layer of that, where it may be read from disk.
    """
    here, other = ModelKey(MODEL_ID, ""), ModelKey("2" * 32, "")
    costs = {here: CellCosts(LAYERS, 0, 12, 0, weight=10), other: CellCosts(LAYERS, 0, 12, 0, weight=other_weight)}
    me = ThisNode(
        node="a" * 16,
        incarnation=1,
        name="a",
        device="cpu",
        memory_total=99_999,
        budget=budget,
        models=tuple(LocalModel(model, "m", one, kv_layer_bytes=2) for model, one in costs.items()),
    )
    machine = NodeMachine(Membership(me, [], 0.0), {})
    list(machine.handle(Started(7701, {here: whole(LAYERS)}, []), 0.0))
    tell_loaded(machine, here)
    return machine, here, other


def tell_loaded(machine: NodeMachine, model: ModelKey) -> list[Effect]:
    """What was asked for is there."""
    claim = machine.claims.of(model)
    engine = IntegerEngine(MODEL, claim.held, 1 << 20)
    return list(machine.handle(PartLoaded(structs.replace(engine.served, model=model)), 1.0))


def loads_of(effects: Iterable[Effect]) -> list[tuple[ModelKey, str, int]]:
    """What is loaded: the model, the part, how many layers of it come from disk."""
    loads = [effect for effect in effects if isinstance(effect, Load)]
    return [(load.model, str(load.part), load.residence.count_read(load.part.layers)) for load in loads]


def test_what_a_model_keeps_gives_way_to_one_that_nobody_else_serves() -> None:
    machine, here, other = start_small(8 * 12 + 20)
    assert machine.claims.of(here).loaded_as == ALL_KEPT
    effects = machine.moves.begin(other, whole(LAYERS), 2.0)
    assert loads_of(effects) == [(here, "b 0-8 e", 6)]
    effects = tell_loaded(machine, here)
    assert loads_of(effects) == [(other, "b 0-8 e", 6)]
    tell_loaded(machine, other)
    assert {model: str(part) for model, part in machine.claims.placed.items()} == {here: "b 0-8 e", other: "b 0-8 e"}
    assert machine.claims.account.free() >= 0


@pytest.mark.parametrize("end", [PartFailed, WeightsLost])
def test_a_move_that_waits_for_room_ends_if_none_comes(end: type[PartFailed | WeightsLost]) -> None:
    machine, here, other = start_small(8 * 12 + 20)
    machine.moves.begin(other, whole(LAYERS), 2.0)
    list(machine.handle(end(here, "the disk is gone"), 3.0))
    assert not machine.moves.is_moving


def test_nothing_gives_way_to_what_would_not_fit_anyway() -> None:
    machine, here, other = start_small(8 * 12, other_weight=0)
    assert loads_of(machine.moves.begin(other, whole(LAYERS), 2.0)) == []
    assert machine.claims.of(here).loaded_as == ALL_KEPT


# Variants of one model ------------------------------------------------------------------------------------------------


def serve(machine: NodeMachine, model: ModelKey, part: str) -> list[Effect]:
    """A part of a model is loaded."""
    engine = IntegerEngine(MODEL, parse_part(part, LAYERS), 1 << 20)
    machine.claims.of(model).loading = engine.served.part
    return list(machine.handle(PartLoaded(structs.replace(engine.served, model=model)), 0.0))


def open_session(machine: NodeMachine, part: str, variant: str, attempt: int = 1) -> list[object]:
    """What a client is answered, and what else happens."""
    order = make_open(part, attempt=attempt, variant=variant, keep=10)
    tensor = None if order.tail is None else ids_tensor([1, 2, 3])
    effects = machine.handle(Arrived(CLIENT, order, tensor), 1.0)
    return [effect.message if isinstance(effect, Answer) else effect for effect in effects]


def test_a_session_gets_the_variant_that_it_names_or_the_one_that_has_its_part() -> None:
    machine, _ = start()
    serve(machine, LARGE, "b 0-4")
    serve(machine, SMALL, "b 0-8 e")
    for attempt, (part, variant, model) in enumerate(
        (("b 0-8 e", "", SMALL), ("b 0-4", "", LARGE), ("b 0-4", "int4", SMALL), ("b 0-4", "bfloat16", LARGE)), start=1
    ):
        opened = open_session(machine, part, variant, attempt)[-1]
        assert isinstance(opened, Opened)
        (hop,) = machine.sessions.hops_of("5" * 32)
        assert hop.model == model
        assert {key for key in MODELS if machine.claims.account.kv_used(key)} == {model}
    for part, variant, said in (
        ("b 0-8 e", "bfloat16", '"b 0-4" is'),
        ("b 0-4", "int8", 'as "bfloat16" and "int4", not "int8"'),
    ):
        (refused,) = open_session(machine, part, variant, 9)
        assert isinstance(refused, Refused)
        assert refused.code == "NOT_SERVING"
        assert said in refused.message


def test_each_variant_is_ready_under_the_name_of_its_own_directory() -> None:
    machine, _ = start()
    for model in (LARGE, SMALL):
        (ready,) = (effect for effect in serve(machine, model, "b 0-8 e") if isinstance(effect, Report))
        assert (ready.kind, ready.fields["model"], ready.fields["variant"]) == ("ready", model.variant, model.variant)


def test_what_one_variant_has_cached_is_of_no_use_to_another() -> None:
    machine, _ = start()
    for model in (LARGE, SMALL):
        serve(machine, model, "b 0-8 e")
    open_session(machine, "b 0-8 e", "int4")
    machine.sessions.hops_of("5" * 32)[0].cached = 10
    (again,) = open_session(machine, "b 0-8 e", "int4", 2)
    assert isinstance(again, Opened)
    assert again.cached == 10
    gone, opened = open_session(machine, "b 0-8 e", "bfloat16", 3)
    assert isinstance(gone, Forget)
    assert gone.model == SMALL
    assert isinstance(opened, Opened)
    assert opened.cached == 0

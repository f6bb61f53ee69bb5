"""One account for all models of a node: each is sure of its reserve, and borrows what nobody uses."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from swarm.messages.sessions import Opened, Refused
from swarm.models import ModelKey
from swarm.node.account import MemoryAccount
from swarm.node.batches import ServedPart
from swarm.node.effects import Answer, Forget
from swarm.node.hops.opening import Opening
from swarm.node.hops.sessions import SessionTable
from swarm.node.leaving import Leaving
from swarm.node.residence import ALL_KEPT, Residence
from swarm.node.this_node import LocalModel
from swarm.parts import NOTHING, Part, parse_part
from swarm.plan.costs import CellCosts
from swarm.wire.events import Asker
from tests.opens import make_open

LAYERS = 4
LAYER, RESERVE = 100, 40  # bytes of a layer's weights, and of its KV reserve
ONE, OTHER = ModelKey("1" * 32, "int4"), ModelKey("1" * 32, "bfloat16")
CLIENT = Asker("c" * 16, "data", b"")


@dataclass
class Claimed:
    held: Part = NOTHING
    held_as: Residence = ALL_KEPT

    @property
    def loaded(self) -> Part:
        return self.held

    @property
    def loaded_as(self) -> Residence:
        return self.held_as


def make_account(budget: int, **held: str) -> tuple[MemoryAccount, dict[str, Claimed]]:
    """held: what is held of ONE and OTHER."""
    costs = CellCosts(LAYERS, 10, LAYER + RESERVE, 20, shared=5)
    claims = {ONE: Claimed(), OTHER: Claimed()}
    for name, spec in held.items():
        claims[{"one": ONE, "other": OTHER}[name]].held = parse_part(spec, LAYERS)
    models = {model: LocalModel(model, "m", costs, RESERVE) for model in claims}
    return MemoryAccount(budget, models, claims), claims


def test_a_part_that_has_begin_and_end_holds_what_they_share_once() -> None:
    account, _ = make_account(1000, one="f")
    assert account.free() == 1000 - (10 + 4 * 140 + 20 - 5)
    account, _ = make_account(1000, one="b 0-4")
    assert account.free() == 1000 - (10 + 4 * 140)


def test_kv_that_one_model_uses_is_not_promised_to_another() -> None:
    account, _ = make_account(800, one="0-2", other="0-2")  # 240 beyond weights and reserves
    assert account.kv_room(ONE) == account.kv_room(OTHER) == 240 + 80
    account.reserve(ONE, 200)
    assert account.kv_room(ONE) == 320
    assert account.kv_room(OTHER) == 320 - (200 - 80), "what is beyond its own reserve is borrowed"
    account.reserve(ONE, -150)
    assert account.kv_room(OTHER) == 320


def test_what_is_being_loaded_is_spoken_for() -> None:
    account, claims = make_account(800, one="0-2", other="0-2")
    claims[OTHER].held = parse_part("0-3", LAYERS)
    assert account.kv_room(ONE) == 320 - 140


def test_a_part_fits_only_beside_what_others_have_borrowed() -> None:
    account, _ = make_account(800, one="0-2", other="0-2")
    assert account.hold(ONE, parse_part("0-3", LAYERS)) == ALL_KEPT
    account.reserve(OTHER, 80 + 101)
    assert account.hold(ONE, parse_part("0-3", LAYERS)) is None
    account.reserve(OTHER, -1)
    assert account.hold(ONE, parse_part("0-3", LAYERS)) == ALL_KEPT


@given(st.lists(st.tuples(st.sampled_from([ONE, OTHER]), st.integers(1, 200)), max_size=12))
def test_whoever_asks_in_whatever_order_nothing_is_promised_twice(asked: list[tuple[str, int]]) -> None:
    account, _ = make_account(800, one="0-2", other="0-2")
    for model, size in asked:
        if account.kv_used(model) + size <= account.kv_room(model):
            account.reserve(model, size)
        assert sum(map(account.kv_used, (ONE, OTHER))) + 2 * 2 * LAYER <= 800
        for model, other in ((ONE, OTHER), (OTHER, ONE)):
            assert account.kv_room(model) >= 2 * RESERVE, f"{model} has lost its reserve to {other}"


# Sessions -------------------------------------------------------------------------------------------------------------


def make_table() -> SessionTable:
    """Two layers of each model; a position costs a byte a layer."""
    account, _ = make_account(800, one="0-2", other="0-2")
    table = SessionTable("a" * 16, account, Leaving({}))
    for model in (ONE, OTHER):
        table.serve(
            ServedPart(
                model=model,
                part=parse_part("0-2", LAYERS),
                layers=LAYERS,
                context=1000,
                vocabulary=50,
                hidden=4,
                dtypes=("float32",),
                cache_bytes=1,
                cache_block=1,
                kv_capacity=2 * 16 * RESERVE,
                layer_seconds=0.1,
                end_seconds=0.1,
                prompt_seconds=0.1,
            )
        )
    return table


def open_session(
    table: SessionTable, session: str, model: ModelKey, positions: int, now: float, attempt: int = 1
) -> list[object]:
    order = make_open(
        "0-2",
        session=session * 32,
        attempt=attempt,
        stage=1,
        model=model.id,
        variant=model.variant,
        next_part="2-4 e",
        positions=positions,
    )
    return [
        effect.message if isinstance(effect, Answer) else effect
        for effect in Opening(table).open(CLIENT, order, None, now)
    ]


def test_a_session_of_one_model_makes_room_for_another_models_once_its_answer_is_over() -> None:
    table = make_table()
    (opened,) = open_session(table, "5", ONE, 160, 0.0)
    assert isinstance(opened, Opened)
    (refused,) = open_session(table, "6", OTHER, 50, 1.0)
    assert isinstance(refused, Refused)
    assert refused.code == "KV_FULL"
    (opened,) = open_session(table, "6", OTHER, 40, 1.0)
    assert isinstance(opened, Opened)
    table.hops_of("5" * 32)[0].lease = 20.0  # renewed, but silent for long
    gone, opened = open_session(table, "7", OTHER, 50, 15.0)
    assert isinstance(gone, Forget)
    assert gone.model == ONE
    assert isinstance(opened, Opened)


def test_what_never_fits_is_said_to_be_too_long() -> None:
    """What only lacks what others have now may fit later: no other chain is tried for what is too long."""
    for positions, code in ((161, "KV_FULL"), (300, "KV_FULL"), (301, "TOO_LONG")):
        (refused,) = open_session(make_table(), "5", ONE, positions, 0.0)
        assert isinstance(refused, Refused)
        assert refused.code == code


def test_who_uses_no_more_than_its_own_keeps_its_idle_sessions() -> None:
    """To end them would free nothing for others."""
    table = make_table()
    open_session(table, "5", OTHER, 40, 0.0)
    table.hops_of("5" * 32)[0].lease = 20.0
    (opened,) = open_session(table, "6", ONE, 160, 14.0)
    assert isinstance(opened, Opened)
    (refused,) = open_session(table, "7", ONE, 10, 15.0)
    assert isinstance(refused, Refused)
    assert table.hops_of("5" * 32)


def test_a_move_takes_back_what_other_models_have_borrowed_for_sessions_that_are_over() -> None:
    table = make_table()
    open_session(table, "5", OTHER, 30, 0.0)
    open_session(table, "6", OTHER, 60, 1.0)
    open_session(table, "7", OTHER, 20, 14.0)
    for name in "56":
        table.hops_of(name * 32)[0].lease = 20.0
    assert table.memory.borrows(OTHER)
    assert [effect.session[0] for effect in table.reclaim(ONE) if isinstance(effect, Forget)] == ["5", "6"]
    assert not table.memory.borrows(OTHER)


def test_a_session_that_changes_models_brings_no_room_along() -> None:
    table = make_table()
    open_session(table, "5", ONE, 40, 0.0)
    (opened,) = open_session(table, "6", OTHER, 160, 0.0)
    assert isinstance(opened, Opened)
    (refused,) = open_session(table, "5", OTHER, 40, 1.0, attempt=2)
    assert isinstance(refused, Refused)
    assert refused.code == "KV_FULL"

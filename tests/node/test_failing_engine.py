"""What cannot be computed at one node is computed elsewhere; only where there is no other chain does the user hear of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarm.client.transcript import Turn
from swarm.errors import PeerError
from swarm.messages.sampling import Sampling
from swarm.messages.sessions import Open
from swarm.messages.steps import Steps, StepSpan
from swarm.messages.tensors import WireTensor, ids_tensor
from swarm.node.account import MemoryAccount
from swarm.node.batches import Batch, BatchResult
from swarm.node.effects import Forget, Run, SendClient
from swarm.node.events import ComputeEnded, WeightsDamaged
from swarm.node.hops.opening import Opening
from swarm.node.hops.sessions import SessionTable
from swarm.node.hops.steps import StepRunner
from swarm.node.leaving import Leaving
from swarm.parts import parse_part
from swarm.testing.integer_model import IntegerEngine, IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation
from swarm.wire.events import Asker
from tests.opens import SESSION, make_open
from tests.swarms import client_of, generate, integer_swarm

MODEL = IntegerModel(layers=8, layer_seconds=0.002)
HALVES = ["b 0-4", "4-8 e"]
CLIENT = Asker("c" * 16, "data", b"")


def start(parts: list[str]) -> tuple[Simulation, list[str]]:
    simulation = Simulation(1, MODEL, Weather())
    names = [simulation.add_node(part) for part in parts]
    simulation.run(5)
    return simulation, names


def check_end(simulation: Simulation) -> None:
    """Every answer is whole, and nothing is left of it."""
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()
    for client in simulation.clients.values():
        client.hang_up()
    simulation.run(6)
    for node in simulation.nodes.values():
        if not node.is_up:
            continue
        assert node.engine is not None
        assert not node.machine.sessions.sessions
        assert not node.engine.cached


@pytest.mark.parametrize("prompt_tokens", [3, 300])
def test_one_session_that_fails_at_a_node_goes_elsewhere_and_its_batch_mates_stay(prompt_tokens: int) -> None:
    simulation, _ = start([*HALVES, *HALVES])
    for _ in range(4):
        simulation.ask(list(range(prompt_tokens)), 100)
    simulation.run(1.0)
    first, *others = simulation.clients.values()
    node, session = first.machine.route[1].node, first.machine.lead.session
    mates = [one for one in others if one.machine.route[1].node == node]
    assert mates, "nobody shares the batch"

    def fails(batch: Batch) -> bool:
        return any(span.session == session for span in batch.spans)

    simulation.nodes[node].fails = fails
    check_end(simulation)
    assert first.machine.attempts == 2
    assert first.longest_gap < 0.5
    assert all(mate.machine.attempts == 1 for mate in mates)


def test_a_prompt_that_fails_costs_those_who_decode_no_chain() -> None:
    simulation, _ = start([*HALVES, *HALVES])
    for _ in range(4):
        simulation.ask([1, 2, 3], 200)
    simulation.run(0.5)
    decoding = list(simulation.clients.values())
    for node in simulation.nodes.values():
        node.fails = lambda batch: len(batch.spans) > 1 and any(span.is_prompt for span in batch.spans)
    simulation.ask(list(range(200)), 20)
    check_end(simulation)
    assert all(client.machine.attempts == 1 for client in decoding)


@pytest.mark.parametrize("at", [0, 1])
def test_a_node_that_always_fails_is_left(at: int) -> None:
    simulation, _ = start([*HALVES, *HALVES])
    simulation.ask([1, 2, 3], 100)
    simulation.run(0.5)
    (client,) = simulation.clients.values()
    broken = client.machine.route[at].node
    simulation.fail(broken, 1e9)
    check_end(simulation)
    assert client.machine.attempts == 2
    assert client.longest_gap < 0.5


def test_where_no_other_chain_is_left_the_user_hears_which_layers_fail_and_where() -> None:
    simulation, names = start(HALVES)
    simulation.ask([1, 2, 3], 100)
    simulation.run(0.5)
    simulation.fail(names[1], 1e9)
    simulation.run(5, simulation.are_answered)
    (client,) = simulation.clients.values()
    assert isinstance(client.error, PeerError)
    assert client.error.code == "FAILED"
    assert names[1] in str(client.error)
    assert "4-8 e" in str(client.error)


def test_a_fault_that_passes_is_not_noticed() -> None:
    simulation, names = start(HALVES)
    simulation.ask([1, 2, 3], 100)
    simulation.run(0.5)
    simulation.fail(names[1], 0.2)
    check_end(simulation)


@pytest.mark.parametrize("at", [0, 1])
def test_a_node_whose_card_is_lost_ends_and_answers_go_elsewhere(at: int) -> None:
    simulation, _ = start([*HALVES, *HALVES])
    simulation.ask([1, 2, 3], 100)
    simulation.run(0.5)
    (client,) = simulation.clients.values()
    node = client.machine.route[at].node
    simulation.tell(node, ComputeEnded("DeviceLost: CUDA error: an illegal memory access was encountered"))
    check_end(simulation)
    assert not simulation.nodes[node].is_up
    assert client.machine.attempts == 2


@pytest.mark.parametrize("at", [0, 1])
def test_damaged_weights_are_withdrawn_and_answers_go_elsewhere(at: int) -> None:
    simulation, _ = start([*HALVES, *HALVES])
    simulation.ask([1, 2, 3], 100)
    simulation.run(0.5)
    (client,) = simulation.clients.values()
    node = client.machine.route[at].node
    bad = parse_part(["2-3", "4-5 e"][at], MODEL.layers)
    simulation.tell(node, WeightsDamaged(MODEL.key, bad, "mid.00002.safetensors", "1" * 64, "2" * 64))
    check_end(simulation)
    assert client.machine.attempts == 2
    assert client.longest_gap < 0.5
    assert str(simulation.part_of(node)) == ["b 0-2 3-4", "5-8"][at]


# One node alone -------------------------------------------------------------------------------------------------------


def table_with_whole_model() -> SessionTable:
    table = SessionTable("a" * 16, MemoryAccount(1 << 40, {}, {}), Leaving({}))
    table.serve(IntegerEngine(MODEL, parse_part("f", MODEL.layers), 1 << 30).served)
    return table


def order(attempt: int, part: str, stage: int = 0) -> Open:
    return make_open(part, attempt=attempt, stage=stage)


def test_a_later_attempt_on_another_part_gives_up_the_cache_of_the_old_one() -> None:
    table = table_with_whole_model()
    Opening(table).open(CLIENT, order(1, "b 0-4"), None, 0.0)
    effects = Opening(table).open(CLIENT, order(2, "b 0-3"), None, 0.0)
    assert [effect.part for effect in effects if isinstance(effect, Forget)] == [parse_part("b 0-4", 8)]
    assert table.memory.kv_used(MODEL.key) == 50 * 3 * 8


def test_a_later_attempt_elsewhere_on_the_chain_leaves_no_cache_behind_its_lease() -> None:
    table = table_with_whole_model()
    Opening(table).open(CLIENT, order(1, "4-6", stage=1), None, 0.0)
    effects = Opening(table).open(CLIENT, order(2, "6-8", stage=2), None, 0.0)
    effects += table.sweep(10.0)
    assert {effect.part for effect in effects if isinstance(effect, Forget)} == {
        parse_part("4-6", 8),
        parse_part("6-8", 8),
    }


def with_a_prompt() -> tuple[SessionTable, StepRunner, WireTensor]:
    """A session's first attempt whose prompt, the last, waits to be run."""
    table = table_with_whole_model()
    steps = StepRunner(table)
    ids = ids_tensor([1, 2, 3])
    Opening(table).open(CLIENT, order(1, "b 0-8 e"), ids, 0.0)
    span = StepSpan(SESSION, 1, 0, 0, 3, True)
    steps.receive_steps(CLIENT, Steps(model=MODEL.model, part="b 0-8 e", spans=[span]), ids, 0.0)
    return table, steps, ids


def test_a_batch_that_fails_after_its_session_moved_on_does_not_end_the_new_attempt() -> None:
    table, steps, ids = with_a_prompt()
    assert any(isinstance(effect, Run) for effect in steps.cores_taken(was_contended=False, now=0.0))
    Opening(table).open(CLIENT, order(2, "b 0-8 e"), ids, 0.1)
    effects = steps.batch_failed("out of memory")
    assert not [effect for effect in effects if isinstance(effect, SendClient | Forget)]
    assert table.sessions[SESSION, 0].order.attempt == 2


def test_a_session_that_lapsed_and_was_opened_again_meanwhile_takes_nothing_from_the_batch() -> None:
    table, steps, ids = with_a_prompt()
    (run,) = [one for one in steps.cores_taken(was_contended=False, now=0.0) if isinstance(one, Run)]
    table.sweep(100.0)
    Opening(table).open(CLIENT, order(1, "b 0-8 e"), ids, 100.0)
    list(steps.batch_done(BatchResult(run.batch.number, (), (7,), 0.01), 100.0))
    assert table.sessions[SESSION, 0].ids == [1, 2, 3]
    assert table.sessions[SESSION, 0].cached == 0


# Real threads and sockets ---------------------------------------------------------------------------------------------

Fault = Callable[[IntegerEngine, Batch], bool]


def break_engines(monkeypatch: pytest.MonkeyPatch, is_fault: Fault) -> None:
    run = IntegerEngine.run

    def run_or_fail(self: IntegerEngine, batch: Batch) -> BatchResult:
        if is_fault(self, batch):
            raise MemoryError("no room for more keys")
        return run(self, batch)

    monkeypatch.setattr(IntegerEngine, "run", run_or_fail)


def test_an_engine_that_raises_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[IntegerEngine] = []

    def is_fault(engine: IntegerEngine, batch: Batch) -> bool:
        if str(batch.part) == HALVES[1] and batch.spans[0].position >= 20 and not broken:
            broken.append(engine)
        return engine in broken

    break_engines(monkeypatch, is_fault)
    with integer_swarm(MODEL, [*HALVES, HALVES[1]]) as nodes, client_of(nodes) as swarm:
        assert generate(swarm, [3, 1, 4], 60) == MODEL.answer([3, 1, 4], 60)
        assert broken


def test_an_engine_that_raises_where_there_is_no_other_ends_the_answer_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def is_fault(_: IntegerEngine, batch: Batch) -> bool:
        return str(batch.part) == HALVES[1] and batch.spans[0].position + batch.spans[0].length > 9

    break_engines(monkeypatch, is_fault)
    with integer_swarm(MODEL, HALVES) as nodes, client_of(nodes) as swarm:
        generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
        turn = Turn(ids=[3, 1, 4], max_tokens=60, sampling=Sampling(), stop_ids=[])
        with pytest.raises(PeerError, match=f'{nodes[1].node}: "4-8 e" fails: MemoryError: no room') as caught:
            list(generation.generate(turn))
        assert caught.value.code == "FAILED"

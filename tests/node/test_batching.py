"""Which steps run together: decode steps before prompts, and nobody is kept waiting for long by anybody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.messages.tensors import ids_tensor
from swarm.models import ModelKey
from swarm.node.batches import LARGEST_CHUNK, Batch, BatchResult, WorkSpan
from swarm.node.hops.batching import (
    SMALLEST_CHUNK,
    Candidate,
    Pace,
    choose_steps,
    chunk_tokens,
    misses_first_prompt,
)
from swarm.parts import Part
from swarm.testing.integer_model import IntegerModel
from swarm.testing.network import Weather
from swarm.testing.simulator import Simulation

MODEL = IntegerModel(layers=8, layer_seconds=0.001, token_seconds=0.0001)


def candidate(name: str, due: float, length: int = 1, group: str = "f", *, can_cut: bool = True) -> Candidate:
    return Candidate((name, 0), group, due, length, is_prompt=length > 1, can_cut=can_cut)


def chosen(candidates: list[Candidate], prompt_tokens: int, *, prompt_leads: bool = False) -> dict[str, int]:
    steps = choose_steps(candidates, prompt_tokens, prompt_leads=prompt_leads)
    return {name: length for (name, _), length in steps}


def test_decode_steps_go_first_and_prompts_fill_what_is_left() -> None:
    waiting = [candidate("long", 1.0, 100), candidate("one", 3.0), candidate("short", 2.0, 10), candidate("two", 4.0)]
    assert chosen(waiting, 32) == {"one": 1, "two": 1, "long": 32}
    assert chosen(waiting, 104) == {"one": 1, "two": 1, "long": 100, "short": 10}
    waiting[2] = candidate("short", 2.0, 90)
    assert chosen(waiting, 105) == {"one": 1, "two": 1, "long": 100, "short": 5}


def test_a_short_rest_of_a_prompt_goes_along() -> None:
    """As a batch of its own it would take nearly as long as what is before it. No batch is larger than any may be."""
    assert chosen([candidate("one", 1.0, 75)], 60) == {"one": 75}
    assert chosen([candidate("one", 1.0, 76)], 60) == {"one": 60}
    assert chosen([candidate("one", 1.0, LARGEST_CHUNK)], LARGEST_CHUNK - 8) == {"one": LARGEST_CHUNK}
    assert chosen([candidate("one", 1.0, LARGEST_CHUNK + 1)], LARGEST_CHUNK - 8) == {"one": LARGEST_CHUNK - 8}
    assert chosen([candidate("one", 1.0, LARGEST_CHUNK + 1)], LARGEST_CHUNK) == {"one": LARGEST_CHUNK}


def test_what_is_due_first_runs_first() -> None:
    assert chosen([candidate("long", 5.0, 100), candidate("short", 2.0, 10)], 32) == {"short": 10, "long": 22}


def test_a_chunk_that_cannot_be_cut_waits_for_a_batch_with_room() -> None:
    waiting = [candidate("first", 1.0, 20, can_cut=False), candidate("second", 2.0, 20, can_cut=False)]
    assert chosen(waiting, 32) == {"first": 20}
    assert chosen(waiting, 8) == {"first": 20}


def test_a_batch_holds_steps_of_one_group_and_prompts_that_had_to_wait_choose_the_next() -> None:
    waiting = [candidate("one", 3.0, group="b 0-5"), candidate("prompt", 1.0, 50), candidate("two", 4.0)]
    assert chosen(waiting, 32) == {"one": 1}
    assert chosen(waiting, 32, prompt_leads=True) == {"two": 1, "prompt": 32}
    assert misses_first_prompt(waiting, choose_steps(waiting, 32))
    assert not misses_first_prompt(waiting, choose_steps(waiting, 32, prompt_leads=True))


def test_a_prompt_that_runs_beside_the_decode_steps_is_not_the_turn_of_one_that_is_due_before_it() -> None:
    waiting = [candidate("one", 3.0, group="b 0-5"), candidate("beside", 2.0, 50, "b 0-5"), candidate("due", 1.0, 50)]
    assert chosen(waiting, 32) == {"one": 1, "beside": 32}
    assert misses_first_prompt(waiting, choose_steps(waiting, 32))
    assert not misses_first_prompt(waiting[:2], choose_steps(waiting[:2], 32))
    assert not misses_first_prompt(waiting[:1], choose_steps(waiting[:1], 32))


@pytest.mark.parametrize("seed", range(3))
def test_a_short_question_does_not_wait_for_a_long_prompt(seed: int) -> None:
    simulation = Simulation(seed, MODEL, Weather())
    simulation.add_node("f")
    simulation.run(3)
    for length in (3000, 5):
        simulation.ask([number % 1000 for number in range(length)], 10)
        simulation.run(0.1)
    long, short = simulation.clients.values()
    simulation.run(60, lambda: bool(long.received))
    assert short.is_done
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()


@pytest.mark.parametrize("seed", range(3))
def test_a_long_prompt_does_not_wait_for_ever_for_short_ones(seed: int) -> None:
    """A question four times a second, for as long as the long one takes; they take half of what the node can do."""
    simulation = Simulation(seed, MODEL, Weather())
    simulation.add_node("f")
    simulation.run(3)
    simulation.ask([number % 1000 for number in range(1500)], 2)
    (long,) = simulation.clients.values()
    for number in range(40):
        simulation.ask([number] * 100, 2)
        simulation.run(0.25)
    assert long.is_done
    assert long.times[1] - long.times[0] < 8
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()


@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_is_computed_beside_answers_that_use_other_layers_of_the_same_node(seed: int) -> None:
    """Two answers always have a step there: their chain goes on at a faster node, which the newcomer cannot reach."""
    simulation = Simulation(seed, replace(MODEL, layer_seconds=0.004), Weather())
    simulation.add_node("f")
    faster = simulation.add_node("4-8 e", speed=4.0)
    simulation.run(3)
    for _ in range(2):
        simulation.ask([1, 2, 3], 2000)
        simulation.run(1.1)
    assert all(len(client.machine.route) == 2 for client in simulation.clients.values())
    running = list(simulation.clients.values())
    name = simulation.ask(list(range(40)), 5)
    simulation.cut(name, faster)
    simulation.run(4)
    assert simulation.clients[name].is_done
    assert not any(client.is_done for client in running)
    simulation.run(60, simulation.are_answered)
    simulation.check_answers()


def test_a_chunk_on_a_card_takes_what_more_tokens_cost_and_not_what_the_first_one_does() -> None:
    """32 tokens cost hardly more than one there: by the mean of them chunks would stay at a dozen."""
    each, chunk = 1e-5, 0.03  # a node's layers together
    assert chunk_tokens(each, None, chunk) == LARGEST_CHUNK
    assert chunk_tokens(each, 0.03, chunk) == LARGEST_CHUNK  # those who decode pay for the weights anyway
    assert chunk_tokens(1e-4, 0.03, chunk) == 120
    assert chunk_tokens(1e-4, None, 0.099) == SMALLEST_CHUNK + 2
    assert chunk_tokens(1e-3, None, 0.2) == 200  # no chunk is as short as a step should be: it may take as long again


def test_where_many_wait_a_chunk_is_worth_what_it_costs_besides() -> None:
    each, chunk, decode = 3e-4, 0.035, 0.012
    assert chunk_tokens(each, decode, chunk) == 16  # one stream and one prompt: the stream is hardly slowed down
    assert chunk_tokens(each, decode, chunk, crowd=1.0) == 16
    assert chunk_tokens(each, decode, chunk, crowd=2.0) == 116
    assert chunk_tokens(each, decode, chunk, crowd=60.0) == 216, "a step takes no longer than a tenth of a second"
    assert chunk_tokens(each, 4 * decode, chunk) == 64, "of a longer step it may take as large a share"


def test_what_a_further_session_costs_is_learned_from_batches_with_prompts_and_without() -> None:
    pace = Pace()
    pace.layer_seconds, pace.chunk_seconds, pace.prompt_seconds = 1e-3, 3e-3, 3e-5
    for _ in range(40):
        pace.note(mixed(0, 5), result(10 * (1e-3 + 4 * 2e-4)))
    assert pace.session_seconds == pytest.approx(2e-4, rel=0.01)
    assert pace.decode_seconds(10, 5) == pytest.approx(0.018, rel=0.01)
    for _ in range(40):
        pace.note(mixed(50, 5), result(10 * (3e-3 + 50 * 3e-5 + 5 * 1e-4)))
    assert pace.session_seconds == pytest.approx(1e-4, rel=0.01)


def test_short_prompts_on_a_busy_machine_do_not_make_the_chunks_of_a_long_one_small() -> None:
    pace = Pace()
    pace.layer_seconds, pace.chunk_seconds, pace.prompt_seconds = 8e-4, 8e-4, 3e-5
    before = pace.chunk(13)
    for _ in range(16):
        pace.note(prompt(16, layers=13), result(1.5 * 13 * (8e-4 + 16 * 3e-5)))
    assert before / 1.7 < pace.chunk(13) < before / 1.4
    assert pace.chunk_seconds / pace.prompt_seconds == pytest.approx(8e-4 / 3e-5)


def test_a_chunk_that_was_held_up_hardly_changes_the_pace_and_a_slower_machine_does() -> None:
    pace = Pace()
    pace.prompt_seconds = 1e-4
    pace.note(prompt(64, layers=4), result(100 * 4 * 64 * 1e-4))
    assert pace.prompt_seconds <= 1.2e-4
    for _ in range(20):
        pace.note(prompt(64, layers=4), result(5 * 4 * 64 * 1e-4))
    assert pace.prompt_seconds == pytest.approx(5e-4, rel=0.1)


def prompt(tokens: int, layers: int) -> Batch:
    part = Part(layers, begin=True, ranges=((0, layers),))
    span = WorkSpan("someone", 1, 0, 0, tokens, 200, is_prompt=True, want=None)
    return Batch(1, ModelKey("1" * 32, "float32"), part, (span,), (ids_tensor(list(range(tokens))),), (1,))


def mixed(prompt_tokens: int, steps: int) -> Batch:
    """A prompt's chunk, if it has tokens, and decode steps through ten layers."""
    spans = [WorkSpan(f"step {number}", 1, 0, 9, 1, 200, is_prompt=False, want=None) for number in range(steps)]
    if prompt_tokens:
        spans.append(WorkSpan("someone", 1, 0, 0, prompt_tokens, 200, is_prompt=True, want=None))
    return Batch(1, ModelKey("1" * 32, "float32"), Part(12, ranges=((0, 10),)), tuple(spans), (), (len(spans),))


def result(seconds: float) -> BatchResult:
    return BatchResult(1, (), (), seconds)

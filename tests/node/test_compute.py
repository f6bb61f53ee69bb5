"""The compute thread: its tick shows that it moves, and a node without it ends."""

from __future__ import annotations

import gc
import os
import queue
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from swarm.decoder.device import Cpu
from swarm.falcon.family import FALCON
from swarm.node.batches import Batch, BatchResult
from swarm.node.compute.costs import LayerCosts, carry_over, fit_costs
from swarm.node.compute.engine import DecoderEngine, DecoderLoader
from swarm.node.compute.models import WeightsSource
from swarm.node.compute.protocol import DeviceLost, Engine, EngineLoader, MakeEngine
from swarm.node.compute.thread import ComputeThread
from swarm.node.effects import Forget, Load, Run
from swarm.node.events import BatchFailed, ComputeEnded, Event, PartFailed, PartLoaded, PartProgress
from swarm.node.residence import ALL_KEPT, Residence
from swarm.parts import Part, parse_part
from swarm.sepweight import tensorfile
from swarm.testing.integer_model import MODEL_KEY, IntegerEngine, IntegerModel
from tests.checkpoints import save_sepweight
from tests.swarms import wait_until

WHOLE = parse_part("f", 12)


class SlowLoader:
    """Loads a piece whenever it is let."""

    def __init__(self, let: queue.SimpleQueue[None]) -> None:
        self._let = let

    def load(
        self, model: str, part: Part, residence: Residence, old: Engine | None
    ) -> Iterator[tuple[int, int] | MakeEngine]:
        for done in range(5):
            self._let.get()
            yield done, 5
        yield lambda old: IntegerEngine(IntegerModel(), part, 1 << 20)

    def trim(self) -> None:
        return


def run(
    make_loader: Callable[[Callable[[], None]], EngineLoader], part: Part = WHOLE
) -> tuple[ComputeThread, queue.SimpleQueue[Event]]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    thread = ComputeThread(make_loader, events.put)
    thread.start()
    thread.give(Load(MODEL_KEY, part))
    return thread, events


def next_of(events: queue.SimpleQueue[Event], kind: type[Event]) -> Event:
    while True:
        event = events.get(timeout=5)
        if isinstance(event, kind):
            return event


def test_a_load_that_stands_still_leaves_the_tick_moving() -> None:
    """What is stuck is the disk, and not what serves."""
    let: queue.SimpleQueue[None] = queue.SimpleQueue()
    thread, events = run(lambda on_layer: SlowLoader(let))
    let.put(None)
    next_of(events, PartProgress)
    before = thread.tick
    wait_until(lambda: thread.tick >= before + 2, 5, "the tick moves")
    for _ in range(4):
        let.put(None)
    next_of(events, PartLoaded)
    thread.stop()


def test_a_node_without_layers_that_never_rests_is_not_stuck() -> None:
    """Nothing of an end's work is a layer, and under load it is never idle."""
    let: queue.SimpleQueue[None] = queue.SimpleQueue()
    thread, events = run(lambda on_layer: SlowLoader(let), parse_part("e", 12))
    for _ in range(5):
        let.put(None)
    next_of(events, PartLoaded)
    before = thread.tick
    for _ in range(8):
        thread.give(Forget(MODEL_KEY, "5" * 32, parse_part("e", 12)))
    thread.stop()
    assert thread.tick >= before + 8


def test_what_is_no_longer_wanted_is_not_taken_up() -> None:
    let: queue.SimpleQueue[None] = queue.SimpleQueue()
    thread, events = run(lambda on_layer: SlowLoader(let))
    let.put(None)
    next_of(events, PartProgress)
    thread.give(Load(MODEL_KEY, parse_part("b 0-3", 12)))
    for _ in range(10):
        let.put(None)
    loaded = next_of(events, PartLoaded)
    assert isinstance(loaded, PartLoaded)
    assert str(loaded.served.part) == "b 0-3"
    thread.stop()
    left = [events.get_nowait() for _ in range(events.qsize())]
    assert not any(isinstance(event, PartLoaded) for event in left)


def test_a_loader_that_cannot_be_made_is_said_and_ends_the_node() -> None:
    def fail(on_layer: Callable[[], None]) -> EngineLoader:
        raise ImportError("libtorch is damaged")

    _, events = run(fail)
    event = next_of(events, ComputeEnded)
    assert isinstance(event, ComputeEnded)
    assert event.message == "ImportError: libtorch is damaged"


class Failing(IntegerEngine):
    """Fails as it is told to."""

    error: Exception

    def run(self, batch: Batch) -> BatchResult:
        raise self.error


class FailingLoader:
    """Makes engines that fail. trimmed: how often memory was given back."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.trimmed = 0

    def load(
        self, model: str, part: Part, residence: Residence, old: Engine | None
    ) -> Iterator[tuple[int, int] | MakeEngine]:
        engine = Failing(IntegerModel(), part, 1 << 20)
        engine.error = self.error
        yield lambda old: engine

    def trim(self) -> None:
        self.trimmed += 1


BATCH = Batch(1, MODEL_KEY, WHOLE, (), (), ())


def test_a_device_that_is_lost_ends_the_node_and_not_just_a_batch() -> None:
    thread, events = run(lambda on_layer: FailingLoader(DeviceLost("CUDA error: illegal memory access")))
    next_of(events, PartLoaded)
    thread.give(Run(BATCH))
    event = next_of(events, ComputeEnded)
    assert isinstance(event, ComputeEnded)
    assert "illegal memory access" in event.message


@pytest.mark.parametrize("when", ["read", "made"])
def test_a_device_that_is_lost_while_a_part_is_loaded_ends_the_node(when: str) -> None:
    class Loader(FailingLoader):
        def load(
            self, model: str, part: Part, residence: Residence, old: Engine | None
        ) -> Iterator[tuple[int, int] | MakeEngine]:
            if when == "read":
                raise self.error

            def make(old: Engine | None) -> Engine:
                raise self.error

            yield make

    _, events = run(lambda on_layer: Loader(DeviceLost("CUDA error: illegal memory access")))
    next_of(events, ComputeEnded)


def test_what_a_load_that_failed_has_read_is_given_back() -> None:
    class Loader(FailingLoader):
        def load(
            self, model: str, part: Part, residence: Residence, old: Engine | None
        ) -> Iterator[tuple[int, int] | MakeEngine]:
            yield 1, 2
            raise self.error

    loader = Loader(torch.OutOfMemoryError("CUDA out of memory"))
    _, events = run(lambda on_layer: loader)
    next_of(events, PartFailed)
    wait_until(lambda: loader.trimmed == 1, 5, "memory is given back")


def test_a_lack_of_memory_fails_a_batch_and_what_is_free_is_given_back() -> None:
    loader = FailingLoader(torch.OutOfMemoryError("CUDA out of memory"))
    thread, events = run(lambda on_layer: loader)
    next_of(events, PartLoaded)
    for failures in (1, 2):
        thread.give(Run(BATCH))
        next_of(events, BatchFailed)
        wait_until(lambda: loader.trimmed == 1 + failures, 5, "memory is given back")  # noqa: B023
    thread.stop()


def test_an_engine_that_is_replaced_is_not_kept_until_the_next_job() -> None:
    class Loader(FailingLoader):
        def load(
            self, model: str, part: Part, residence: Residence, old: Engine | None
        ) -> Iterator[tuple[int, int] | MakeEngine]:
            yield lambda old: IntegerEngine(IntegerModel(), part, 1 << 20)

    thread, events = run(lambda on_layer: Loader(ValueError()))
    next_of(events, PartLoaded)
    first = weakref.ref(thread._engines[MODEL_KEY])
    thread.give(Load(MODEL_KEY, parse_part("b 0-3", 12)))
    next_of(events, PartLoaded)
    wait_until(lambda: first() is None, 5, "the first engine is gone")
    thread.stop()


def test_what_a_chunk_costs_is_a_line_through_two_timings() -> None:
    line = fit_costs(0.003, (32, 0.009), (128, 0.030))
    assert line.prompt_token == pytest.approx(0.021 / 96)
    assert line.chunk == pytest.approx(0.002)
    free = fit_costs(0.003, (32, 0.003), (512, 0.003))  # on a card more tokens may cost nothing that can be measured
    assert 0 < free.prompt_token < 1e-7
    assert free.chunk == pytest.approx(0.003, rel=0.02)


def test_layers_of_which_more_come_from_disk_compute_as_they_did() -> None:
    """A layer's share of a pass took 40 ms, and takes 100: prompts are as dear as before where computing takes longer."""
    costs = carry_over(LayerCosts(0.04, 0.04, 0.0005, computing=0.004), 0.04, 0.1)
    assert costs.token == 0.1
    assert costs.computing == 0.004
    assert costs.chunk + 512 * costs.prompt_token == pytest.approx(0.256)
    assert costs.chunk + 32 * costs.prompt_token == pytest.approx(0.1)
    less = carry_over(costs, 0.1, 0.001)
    assert less.token == 0.004
    assert less.chunk + 512 * less.prompt_token < 0.256


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_sepweight("40b", tmp_path / "weights")
    return tmp_path / "weights"


def loader_of(weights: Path, on_layer: Callable[[], None] = lambda: None) -> DecoderLoader:
    return DecoderLoader(
        {MODEL_KEY: WeightsSource(FALCON, weights, 1 << 30)},
        Cpu(),
        None,
        on_layer,
    )


def load(
    loader: DecoderLoader, spec: str, old: DecoderEngine | None = None
) -> tuple[list[tuple[int, int]], DecoderEngine]:
    """(progress, engine)"""
    *progress, make = loader.load(MODEL_KEY, parse_part(spec, 4), ALL_KEPT, old)
    assert callable(make)
    engine = make(old)
    assert isinstance(engine, DecoderEngine)
    return progress, engine  # pyright: ignore[reportReturnType]


def test_a_piece_is_never_more_than_what_a_slow_disk_reads_at_once(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorfile, "PIECE_BYTES", 4096)
    progress, _ = load(loader_of(weights), "0-4 e")
    done = [done for done, _ in progress]
    assert all(later - earlier <= 4096 for earlier, later in zip([0, *done], done, strict=False))
    assert progress[-1] == (done[-1], done[-1])


def test_a_move_reads_only_what_is_new(weights: Path) -> None:
    loader = loader_of(weights)
    _, old = load(loader, "b 0-2")
    progress, new = load(loader, "b 0-3", old)
    whole, _ = load(loader, "b 0-3")
    assert progress[-1][1] * 3 == whole[-1][1]
    assert [new.part.shelf.resident[number] for number in (0, 1)] == list(old.part.shelf.resident.values())


def test_parts_without_layers_say_nothing_of_what_a_layer_costs(weights: Path) -> None:
    """Or their node would look like the fastest of all."""
    for spec in ("b", "e"):
        _, engine = load(loader_of(weights), spec)
        assert (engine.served.layer_seconds, engine.served.prompt_seconds) == (0.0, 0.0)
        assert (engine.served.end_seconds > 0) == (spec == "e")


def test_the_tick_moves_while_a_new_part_is_tried_out(weights: Path) -> None:
    ticks: list[None] = []
    load(loader_of(weights, lambda: ticks.append(None)), "0-4")
    assert len(ticks) >= 4


def test_an_embedding_that_is_given_up_closes_its_file(weights: Path) -> None:
    loader = loader_of(weights)
    load(loader, "b 0-1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        load(loader, "b 0-1")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1

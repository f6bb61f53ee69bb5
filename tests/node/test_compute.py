"""The compute thread: its tick shows that it moves, and a node without it ends."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarm.node.compute import ComputeThread
from swarm.node.effects import Load
from swarm.node.engine import FalconEngine, FalconLoader
from swarm.node.machine import ComputeEnded, Event, PartLoaded, PartProgress
from swarm.node.work import Engine, EngineLoader
from swarm.parts import Part, parse_part
from swarm.sepweight import tensorfile
from swarm.testing.integer_model import MODEL_ID, IntegerEngine, IntegerModel
from tests.checkpoints import save_sepweight
from tests.swarms import wait_until

WHOLE = parse_part("f", 12)


class SlowLoader:
    """Loads a piece whenever it is let."""

    def __init__(self, let: queue.SimpleQueue[None]) -> None:
        self._let = let

    def load(self, model: str, part: Part, old: Engine | None) -> Iterator[tuple[int, int] | Engine]:
        for done in range(5):
            self._let.get()
            yield done, 5
        yield IntegerEngine(IntegerModel(), part, 1 << 20)


def run(make_loader: Callable[[Callable[[], None]], EngineLoader]) -> tuple[ComputeThread, queue.SimpleQueue[Event]]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    thread = ComputeThread(make_loader, events.put)
    thread.start()
    thread.give(Load(MODEL_ID, WHOLE))
    return thread, events


def test_the_tick_moves_with_each_piece_that_is_loaded() -> None:
    let: queue.SimpleQueue[None] = queue.SimpleQueue()
    thread, events = run(lambda on_layer: SlowLoader(let))
    for _ in range(5):
        before = thread.tick
        let.put(None)
        wait_until(lambda before=before: thread.tick > before, 5, "the tick moves")
    assert isinstance(events.get(timeout=5), PartProgress)
    wait_until(lambda: isinstance(events.get(timeout=5), PartLoaded), 5, "loaded")
    thread.stop()


def test_a_loader_that_cannot_be_made_is_said_and_ends_the_node() -> None:
    def fail(on_layer: Callable[[], None]) -> EngineLoader:
        raise ImportError("libtorch is damaged")

    _, events = run(fail)
    event = events.get(timeout=5)
    assert isinstance(event, ComputeEnded)
    assert event.message == "ImportError: libtorch is damaged"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_sepweight("40b", tmp_path / "weights")
    return tmp_path / "weights"


def loader_of(weights: Path, on_layer: Callable[[], None] = lambda: None) -> FalconLoader:
    return FalconLoader({MODEL_ID: weights}, "cpu", None, lambda model, part: 1 << 20, on_layer)


def test_a_piece_is_never_more_than_what_a_slow_disk_reads_at_once(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorfile, "PIECE_BYTES", 4096)
    steps = list(loader_of(weights).load(MODEL_ID, parse_part("0-4 e", 4), None))
    progress = [step for step in steps if isinstance(step, tuple)]
    done = [done for done, _ in progress]
    assert all(later - earlier <= 4096 for earlier, later in zip([0, *done], done, strict=False))
    assert progress[-1] == (done[-1], done[-1])
    assert isinstance(steps[-1], FalconEngine)


def test_a_move_reads_only_what_is_new(weights: Path) -> None:
    loader = loader_of(weights)
    *_, old = loader.load(MODEL_ID, parse_part("b 0-2", 4), None)
    assert isinstance(old, FalconEngine)
    *progress, new = loader.load(MODEL_ID, parse_part("b 0-3", 4), old)
    *whole, _ = loader.load(MODEL_ID, parse_part("b 0-3", 4), None)
    assert progress[-1][1] * 3 == whole[-1][1]
    assert isinstance(new, FalconEngine)
    assert list(new.part.layers)[:2] == list(old.part.layers)


def test_parts_without_layers_say_nothing_of_what_a_layer_costs(weights: Path) -> None:
    """Or their node would look like the fastest of all."""
    for spec in ("b", "e"):
        *_, engine = loader_of(weights).load(MODEL_ID, parse_part(spec, 4), None)
        assert isinstance(engine, FalconEngine)
        assert (engine.served.layer_seconds, engine.served.prompt_seconds) == (0.0, 0.0)
        assert (engine.served.end_seconds > 0) == (spec == "e")


def test_the_tick_moves_while_a_new_part_is_tried_out(weights: Path) -> None:
    ticks: list[None] = []
    list(loader_of(weights, lambda: ticks.append(None)).load(MODEL_ID, parse_part("0-4", 4), None))
    assert len(ticks) >= 4

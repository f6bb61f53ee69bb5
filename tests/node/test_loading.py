"""Loader threads: they yield while somebody computes here, and take their share again when nobody does."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.node.compute import loader
from swarm.node.compute.loader import Built, LoaderThreads, LoadOrder, Traffic
from swarm.node.compute.protocol import Engine, MakeEngine
from swarm.node.events import Event
from swarm.node.residence import ALL_KEPT, Residence
from swarm.node.shell.cores import Cores
from swarm.parts import Part, parse_part
from swarm.testing.integer_model import MODEL_KEY, IntegerEngine, IntegerModel
from tests.swarms import wait_until

WHOLE = parse_part("f", 12)


class Watching:
    """A loader that notes which class its thread is in, a piece after the other."""

    def __init__(self, used: list[bool]) -> None:
        """used: whether the cores are in use while each piece is loaded."""
        self.used = used
        self.are_used = False
        self.classes: list[int] = []

    def load(
        self, model: str, part: Part, residence: Residence, old: Engine | None
    ) -> Iterator[tuple[int, int] | MakeEngine]:
        for number, used in enumerate(self.used):
            self.are_used = used
            time.sleep(0.1)
            self.classes.append(os.sched_getscheduler(0))
            yield number, len(self.used)
        yield lambda old: IntegerEngine(IntegerModel(), part, 1 << 20)

    def trim(self) -> None:
        return


def load(watching: Watching, *orders: Part) -> list[Part]:
    """Parts in the order in which they were handed over."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    built: list[Built] = []
    threads = LoaderThreads(lambda: watching, events.put, built.append, lambda: watching.are_used)
    threads.start()
    for part in orders:
        threads.load(LoadOrder(MODEL_KEY, part, ALL_KEPT, None, lambda: True))
    wait_until(lambda: len(built) == len(orders), 10, "all is loaded")
    return [one.order.part for one in built]


def test_a_load_yields_while_somebody_computes_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a busy machine would never be done with it, long after the answer that it yielded to."""
    monkeypatch.setattr(loader, "RECENT_SECONDS", 0.05)
    watching = Watching([False, True, True, False, False, True, True])
    load(watching, WHOLE)
    other, idle = os.SCHED_OTHER, os.SCHED_IDLE
    assert watching.classes == [other, other, idle, idle, other, other, idle]


def test_loads_that_change_threads_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "RECENT_SECONDS", 0.0)
    parts = [WHOLE, parse_part("b 0-3", 12), parse_part("3-12 e", 12)]
    watching = Watching([True, False, True, False])
    assert load(watching, *parts) == parts
    assert len(watching.classes) == 12


def test_a_batch_a_moment_ago_means_traffic() -> None:
    traffic = Traffic()
    assert not traffic.note(False, 5.0)
    assert traffic.note(True, 6.0)
    assert traffic.note(False, 6.9)
    assert not traffic.note(False, 7.1)


def test_cores_are_seen_to_be_used(tmp_path: Path) -> None:
    mine, other = Cores(tmp_path / "cores"), Cores(tmp_path / "cores")
    assert not mine.are_used()
    assert other.take(lambda: None)
    assert mine.are_used()
    assert other.are_used()
    other.give()
    assert not mine.are_used()
    assert not Cores(None).are_used()

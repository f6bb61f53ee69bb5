"""Nodes of one machine share a device's memory without promising it twice."""

from __future__ import annotations

import threading
from pathlib import Path

from swarm.node.shell.ledger import Ledger, one_at_a_time


def test_who_chooses_a_device_is_alone_with_the_ledgers(tmp_path: Path) -> None:
    order: list[str] = []
    is_waiting = threading.Event()

    def choose() -> None:
        is_waiting.set()
        with one_at_a_time(tmp_path):
            order.append("second")

    with one_at_a_time(tmp_path):
        thread = threading.Thread(target=choose)
        thread.start()
        is_waiting.wait()
        thread.join(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_device_is_known_by_its_key_and_not_by_its_number(tmp_path: Path) -> None:
    """Two processes may call different cards cuda:0."""
    one, other = Ledger(tmp_path, "cuda-1b2c"), Ledger(tmp_path, "cuda-3d4e")
    assert one.promise(lambda: 100, 80) == 80
    assert other.promise(lambda: 100, 80) == 80
    assert len(list(tmp_path.glob("cuda-*.json"))) == 2

"""One node that serves the demo model, for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo_model import LOOPBACK, WEIGHTS
from tests.processes import Node


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def node(home: Path) -> Iterator[Node]:
    started = Node(home, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18950", "--no-mdns", "--part", "f"])
    started.wait_ready()
    yield started
    started.stop()


@pytest.fixture
def reach(node: Node) -> list[str]:
    return [*LOOPBACK, "--no-mdns", "--peer", node.wait_ready()[4]]

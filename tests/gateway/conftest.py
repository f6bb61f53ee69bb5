"""A swarm of one node and its gateway, for all tests that leave them as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo_model import LOOPBACK, WEIGHTS
from tests.gateway.serving import Gateway
from tests.processes import Node


@pytest.fixture(scope="session")
def swarm_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="session")
def node_address(swarm_home: Path) -> Iterator[str]:
    arguments = ["--weights", WEIGHTS, "--memory", "400MB", "--no-mdns", "--port", "18970", *LOOPBACK]
    node = Node(swarm_home, arguments)
    yield node.wait_ready()[4]
    node.stop()


@pytest.fixture(scope="session")
def gateway(swarm_home: Path, node_address: str) -> Iterator[Gateway]:
    found = Gateway(swarm_home, [node_address])
    yield found
    found.stop()
    assert not found.errors

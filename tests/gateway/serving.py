"""A real swarm-gateway over real nodes on loopback, with the demo model."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.demo_model import LOOPBACK, WEIGHTS
from tests.processes import Node, environment

READY = re.compile(r"swarm-gateway ready address=(http://\S+)")
MODEL = "swarm-demo"
PORTS = (18973, 18975)  # each node takes two
ADDRESSES = [f"127.0.0.1:{port}" for port in PORTS]


class Gateway:
    """A swarm-gateway process."""

    def __init__(self, home: Path, peers: Sequence[str], arguments: Sequence[str] = ()) -> None:
        named = [option for peer in peers for option in ("--peer", peer)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swarm.cli", "gateway", "--no-mdns", "--port", "0", *named, *arguments],
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = READY.match(line)
        assert match, f"{line}{self.process.stderr and self.process.stderr.read()}"
        self.url = match[1]
        self.errors: list[str] = []
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        self.errors += iter(self.process.stderr.readline, "")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=60)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = ""
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON. body: bytes go as they are; None asks with GET."""
        connection = self.connect()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(told)


def start_two(home: Path) -> list[Node]:
    """Nodes that serve all of the demo model each."""
    nodes: list[Node] = []
    for port, other in zip(PORTS, reversed(ADDRESSES), strict=True):
        common = ["--weights", WEIGHTS, *LOOPBACK, "--no-mdns", "--part", "f", "--port", str(port)]
        nodes.append(Node(home, [*common, "--peer", other, "--name", f"n{port}"]))
        nodes[-1].wait_ready()  # the first one makes the secret
    return nodes


def start_three(home: Path, memory: str) -> list[Node]:
    """Nodes that choose what they serve; the first two listen where those of start_two do."""
    common = ["--weights", WEIGHTS, *LOOPBACK, "--no-mdns", "--memory", memory, "--peer", ADDRESSES[0]]
    nodes = [Node(home, [*common, "--port", str(port), "--name", f"n{port}"]) for port in (*PORTS, PORTS[-1] + 2)]
    for node in nodes:
        node.wait_ready()
    return nodes


def find_busy(nodes: list[Node]) -> Node:
    """The node that computes."""

    def ticks(node: Node) -> int:
        return sum(map(int, Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    before = [ticks(node) for node in nodes]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        used = [ticks(node) - one for node, one in zip(nodes, before, strict=True)]
        if max(used) >= min(used) + 5:
            return nodes[used.index(max(used))]
        time.sleep(0.02)
    raise AssertionError("no node computes more than the other")

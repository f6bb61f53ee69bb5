"""Integer nodes and clients as processes of their own, for tests that kill, stop, add and remove them."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from swarm.testing.integer_model import IntegerModel
from tests import lan
from tests.swarms import HOST

FIRST_PORT = 22000
NOTICED_SECONDS = 5.0  # until a chain that cannot go on is left
PAUSE_SECONDS = 7.0  # and until the next one has caught up


@dataclass
class Process:
    """An integer node that runs by itself."""

    popen: subprocess.Popen[str]
    node: str
    address: str
    part: str = ""  # as it was told

    def leave(self) -> None:
        """Politely."""
        self.popen.terminate()


def start_node(
    part: str, index: int, model: IntegerModel, peers: Sequence[str], host: lan.Host | None = None, **options: int | str
) -> Process:
    """A node that has said where it listens. part: what it serves, or "+N" for one with room for N layers.

    options: of make_node.
    """
    prefix, address = ([], HOST) if host is None else (host.prefix, host.address)
    port, given = str(FIRST_PORT + 10 * index), json.dumps({"model": asdict(model), **options})
    command = [*prefix, sys.executable, "-m", "tests.integer_node", part, address, port, given, *peers]
    popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert popen.stdout is not None
    return Process(popen, *popen.stdout.readline().split(), part)


def end_nodes(nodes: Sequence[Process]) -> None:
    """Whatever state they are in."""
    for process in nodes:
        process.popen.send_signal(signal.SIGCONT)
        process.popen.terminate()
    for process in nodes:
        try:
            process.popen.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.communicate()


@contextmanager
def node_processes(
    parts: Sequence[str], model: IntegerModel, hosts: Sequence[lan.Host] = (), **options: int | str
) -> Iterator[list[Process]]:
    """A node a part, each told of those before it; on loopback, or each on a host of its own. May be added to."""
    started: list[Process] = []
    try:
        for index, part in enumerate(parts):
            peers = [process.address for process in started]
            started.append(start_node(part, index, model, peers, hosts[index] if hosts else None, **options))
        yield started
    finally:
        end_nodes(started)


@dataclass
class Answer:
    """What came of a turn, and when."""

    asked_at: float = 0.0
    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    routes: list[dict[str, str]] = field(default_factory=list)  # part → node, of each attempt
    routed_at: list[float] = field(default_factory=list)  # when each was open
    struck_at: float = 0.0  # when something was done to its chain

    @property
    def seconds_to_notice(self) -> float:
        """Until the next chain was open, which takes milliseconds once the old one is given up."""
        return self.routed_at[1] - self.struck_at

    @property
    def attempts(self) -> int:
        return len(self.routes)

    @property
    def longest_gap(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))

    def tokens_per_second(self, last: int) -> float:
        """Of the last tokens that have come."""
        times = self.times[-last - 1 :]
        return (len(times) - 1) / (times[-1] - times[0])


def ask(
    nodes: Sequence[Process], tokens: int, laptop: lan.Host | None = None, prompt_tokens: int = 0
) -> Iterator[Answer]:
    """Ask for one answer from a process of its own; gives what there is of it whenever something has come."""
    command = client_command("ask", nodes, laptop, tokens=tokens, prompt_tokens=prompt_tokens)
    answer = Answer(asked_at=time.monotonic())
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        for line in map(json.loads, client.stdout):
            if "route" in line:
                answer.routes.append(dict(line["route"]))
                answer.routed_at.append(line["at"])
            else:
                answer.ids.append(line["id"])
                answer.times.append(line["at"])
            yield answer


def answer_under(
    strike: Callable[[Answer], None], nodes: Sequence[Process], tokens: int, laptop: lan.Host | None = None
) -> Answer:
    """An answer in the middle of which something is done to its chain."""
    answer = Answer()
    is_struck = False
    for answer in ask(nodes, tokens, laptop):
        if len(answer.ids) == tokens // 3 and not is_struck:
            is_struck = True
            answer.struck_at = time.monotonic()
            strike(answer)
    return answer


def see(
    nodes: Sequence[Process], wanted: int, laptop: lan.Host, seconds: float = 60, *, is_mesh: bool = False
) -> dict[str, Any]:
    """What a client of these nodes, or one that browses, says once it sees so many."""
    command = client_command("see", nodes, laptop, wanted=wanted, seconds=seconds, is_mesh=is_mesh)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    return json.loads(done.stdout)


def check_failover(answer: Answer, expected: Sequence[int], what: str, notice_seconds: float = NOTICED_SECONDS) -> None:
    """The unbroken answer, after a pause."""
    noticed, gap = answer.seconds_to_notice, answer.longest_gap
    print(f"{what}: noticed after {noticed:.2f} s, the longest gap was {gap:.2f} s over {answer.attempts} chains")
    assert answer.ids == expected
    assert noticed < notice_seconds
    assert gap < PAUSE_SECONDS


def client_command(what: str, nodes: Sequence[Process], laptop: lan.Host | None, **options: float) -> list[str]:
    """What starts tests.integer_client."""
    prefix, host = ([], HOST) if laptop is None else (laptop.prefix, laptop.address)
    addresses = [node.address for node in nodes]
    return [*prefix, sys.executable, "-m", "tests.integer_client", what, host, json.dumps(options), *addresses]

"""Every hop is killed at every token of an answer, with one spare of each: real processes, the model of integers."""

from __future__ import annotations

import itertools
import threading
import time
from statistics import median

import pytest

from swarm.client.news import Delivered, RouteTaken
from swarm.client.swarm import SwarmClient
from swarm.client.transcript import Turn
from swarm.messages.sampling import Sampling
from swarm.testing.integer_model import IntegerModel
from tests.integer_client import PROMPT
from tests.integer_processes import Process, end_nodes, start_node
from tests.swarms import open_client

pytestmark = pytest.mark.long
LAYER_SECONDS = 0.0005
MODEL = IntegerModel(layer_seconds=LAYER_SECONDS)
PARTS = ["b 0-4", "4-8", "8-12 e"]
TOKENS = 64
EXPECTED = MODEL.answer(PROMPT, TOKENS)


class Killing(threading.Thread):
    """A swarm of its own, of which one hop is killed at one token after the other."""

    def __init__(self, hop: int) -> None:
        super().__init__(daemon=True)
        self.pauses: list[float] = []
        self.wrong: list[str] = []
        self._hop = hop
        self._nodes: list[Process] = []
        self._numbers = itertools.count(100 * (hop + 1))
        self._spare = threading.Thread()

    def run(self) -> None:
        try:
            for part in PARTS * 2:
                self._add(part)
            with open_client([node.address for node in self._nodes]) as client:
                for at in range(TOKENS):
                    self._spare = threading.Thread(target=self._add, args=(PARTS[self._hop],))
                    self._kill_at(at, client)
                    self._spare.join()
        except Exception as error:  # told by the test, on its own thread
            self.wrong.append(f"hop {self._hop}: {type(error).__name__}: {error}")
        finally:
            end_nodes(self._nodes)

    def _add(self, part: str) -> None:
        peers = [node.address for node in self._nodes if node.popen.poll() is None]
        self._nodes.append(start_node(part, next(self._numbers), MODEL, peers))

    def _kill_at(self, at: int, client: SwarmClient) -> None:
        generation = client.open_generation(client.card(client.find_model(None, 20)))
        ids: list[int] = []
        times = [time.monotonic()]
        victim = ""
        for event in generation.generate(Turn(ids=PROMPT, max_tokens=TOKENS, sampling=Sampling(), stop_ids=[])):
            if isinstance(event, Delivered):
                ids += event.ids
                times.append(time.monotonic())
            if len(ids) >= at and not victim and isinstance(event, RouteTaken | Delivered):
                victim = generation.machine.route[self._hop].node
                next(node for node in self._nodes if node.node == victim).popen.kill()
                self._spare.start()
        generation.cancel()
        self.pauses.append(max(later - earlier for earlier, later in itertools.pairwise(times)))
        if ids != EXPECTED:
            self.wrong.append(f"hop {self._hop} killed at token {at}: {ids}")


def test_every_hop_is_killed_at_every_token() -> None:
    runs = [Killing(hop) for hop in range(len(PARTS))]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    pauses = sorted(pause for run in runs for pause in run.pauses)
    assert [wrong for run in runs for wrong in run.wrong] == []
    assert len(pauses) == len(PARTS) * TOKENS
    print(f"{len(pauses)} kills: pause {median(pauses):.2f} s in the median, {pauses[-1]:.2f} s at most")

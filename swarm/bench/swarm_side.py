"""Our side of a measurement: real node processes on loopback and a client in this process."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from swarm.client.news import Delivered
from swarm.client.swarm import ClientSettings, Generation, SwarmClient
from swarm.client.transcript import Turn
from swarm.keys import derive_keys, new_identity, read_secret
from swarm.messages.files import ModelCard
from swarm.messages.sampling import Sampling
from swarm.parts import Part

HOST = "127.0.0.1"
READY_SECONDS = 300.0
MOST_TOKENS = 1000  # of a stream that goes on until others have caught up
SETTLE_SECONDS = 1.3  # until the next renewal has told how long the nodes computed


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """One stream's run."""

    decode_tokens_per_second: float
    prompt_tokens_per_second: float
    first_token_seconds: float
    hop_overhead_ms: float


class SwarmSide:
    """Nodes that serve the given parts, one process each, and a client of them. Use as a context manager."""

    def __init__(
        self,
        weights: Path,
        parts: Sequence[Part],
        folder: Path,
        port: int,
        options: Sequence[str] = (),
        programs: Sequence[Sequence[str]] = (),
        options_of_each: Sequence[Sequence[str]] = (),
    ) -> None:
        """options: of the nodes, beside the usual ones. programs: of each, with its first arguments, if not swarm-node."""
        self._parts = parts
        self._programs = programs or [["swarm.cli", "node"]] * len(parts)
        self._options_of_each = options_of_each or [()] * len(parts)
        self._folder = folder
        self._nodes: list[subprocess.Popen[str]] = []
        self._ids: list[str] = []  # of the nodes
        self.ready_seconds: list[float] = []  # that each node has taken from its start
        self._options = ["--weights", str(weights), "--host", HOST]
        self._options += ["--no-mdns", "--device", "auto", "--port", str(port), *options]
        self.environment = {**os.environ, **{f"XDG_{kind}_HOME": str(folder / kind) for kind in ("CONFIG", "STATE")}}

    def __enter__(self) -> SwarmSide:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.addresses: list[str] = []
        for part, program, options in zip(self._parts, self._programs, self._options_of_each, strict=True):
            self._start_node(part, [*program, *self._options, *options])
        secret = read_secret(self._folder / "CONFIG" / "swarm" / "secret")
        assert secret is not None
        settings = ClientSettings(hosts=[HOST], peers=list(self.addresses), use_mdns=False)
        self.client = SwarmClient(settings, derive_keys(secret), new_identity())
        self.client.__enter__()
        self.card: ModelCard = self.client.card(self.client.find_model(None, READY_SECONDS))

    def add_node(self, part: Part) -> None:
        """One more of swarm-node, beside those that serve already."""
        self._start_node(part, ["swarm.cli", "node", *self._options])

    def _start_node(self, part: Part, own: Sequence[str]) -> None:
        """own: the program, and its options."""
        peers = (word for peer in self.addresses for word in ("--peer", peer))
        command = [sys.executable, "-m", *own, "--part", str(part), *peers]
        start = time.perf_counter()
        node = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        self._nodes.append(node)
        assert node.stdout is not None
        line = node.stdout.readline()
        if "ready" not in line:
            raise RuntimeError(f'the node for "{part}" did not start')
        self.ready_seconds.append(time.perf_counter() - start)
        self._ids.append(line.partition("id=")[2].partition(" ")[0])
        self.addresses.append(line.strip().rpartition("tcp://")[2])

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "client"):
            self.client.__exit__()
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            node.wait(10)

    def kill(self, node: str) -> None:
        """The node of that id is gone, without a word."""
        self._nodes[self._ids.index(node)].kill()

    def stream(self, prompt_tokens: int, new_tokens: int, seed: int, note: Callable[[float], None]) -> None:
        """One answer to a new prompt; each token is noted by perf_counter when it comes."""
        with self._generation() as generation:
            self._run(generation, self.make_prompt(prompt_tokens, seed), new_tokens, note)

    def _generation(self) -> Generation:
        return self.client.open_generation(self.card)

    def make_prompt(self, tokens: int, seed: int) -> list[int]:
        """Token ids that are no ends of anything."""
        rng = random.Random(seed)
        return [rng.randrange(12, self.card.vocabulary) for _ in range(tokens)]

    def _turn(self, ids: Sequence[int], tokens: int) -> Turn:
        return Turn(ids=ids, max_tokens=tokens, sampling=Sampling(), stop_ids=[])

    def _run(self, generation: Generation, ids: Sequence[int], tokens: int, note: Callable[[float], None]) -> list[int]:
        answer: list[int] = []
        for event in generation.generate(self._turn(ids, tokens)):
            if isinstance(event, Delivered):
                answer += event.ids
                for _ in event.ids:
                    note(time.perf_counter())
        return answer

    def answer(self, prompt: Sequence[int], tokens: int, given: Sequence[int] = ()) -> list[tuple[int, float]]:
        """Greedy tokens, or those given, each with its log-probability."""
        turn = Turn(ids=prompt, max_tokens=tokens, sampling=Sampling(), stop_ids=[], scores=0, given=given)
        with self._generation() as generation:
            events = [event for event in generation.generate(turn) if isinstance(event, Delivered)]
        return [
            (token, score.log_probability)
            for event in events
            for token, score in zip(event.ids, event.scores, strict=True)
        ]

    def measure_stream(self, prompt_tokens: int, new_tokens: int, seed: int) -> StreamFigures:
        """One stream alone: first a prompt for its first token, then a turn that decodes behind it."""
        generation = self._generation()
        ids = self.make_prompt(prompt_tokens, seed)
        times: list[float] = []
        started = time.perf_counter()
        ids += self._run(generation, ids, 1, times.append)
        first = times[0] - started
        times = []
        self._run(generation, ids, new_tokens, times.append)
        wall = times[-1] - times[0]
        threading.Event().wait(SETTLE_SECONDS)
        busy = sum(generation.machine.busy_seconds.values()) / new_tokens
        generation.cancel()
        gap = wall / (len(times) - 1)
        return StreamFigures(
            decode_tokens_per_second=1 / gap,
            prompt_tokens_per_second=prompt_tokens / first,
            first_token_seconds=first,
            hop_overhead_ms=(gap - busy) / len(self._parts) * 1000,
        )

    def measure_prompt(self, tokens: int, seed: int) -> float:
        """Tokens a second of a prompt alone, until the first token of its answer."""
        generation = self._generation()
        times: list[float] = []
        started = time.perf_counter()
        self._run(generation, self.make_prompt(tokens, seed), 1, times.append)
        generation.cancel()
        return tokens / (times[0] - started)

    def anonymous_bytes(self, first: int = 0) -> int:
        """Of all nodes, or from one of them on: memory that no file stands behind."""
        return sum(anonymous_bytes(node.pid) for node in self._nodes[first:])

    def measure_many(self, sessions: int, prompt_tokens: int, new_tokens: int, seed: int) -> float:
        """Tokens a second of many streams together, while all of them decode: until the first has had so many meanwhile."""
        times: list[list[float]] = [[] for _ in range(sessions)]

        def work(index: int) -> None:
            generation = self._generation()
            turn = self._turn(self.make_prompt(prompt_tokens, seed + index), MOST_TOKENS)
            for event in generation.generate(turn):
                if isinstance(event, Delivered):
                    times[index] += [time.perf_counter()] * len(event.ids)
                if _tokens_together(times) >= new_tokens:
                    break
            generation.cancel()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return rate_together(times)

    def measure_disturbance(self, prompt_tokens: int, seed: int) -> float:
        """How many times longer a running stream's median gap is while a long prompt of another prefills."""
        times: list[float] = []
        running, other = self._generation(), self._generation()
        stream = threading.Thread(target=lambda: self._run(running, self.make_prompt(16, seed), 400, times.append))
        stream.start()
        while len(times) < 40:
            threading.Event().wait(0.01)
        started = time.perf_counter()
        arrived: list[float] = []
        self._run(other, self.make_prompt(prompt_tokens, seed + 1), 1, arrived.append)
        running.cancel()
        other.cancel()
        before = [at for at in times if at < started][5:]
        during = [at for at in times if started <= at <= arrived[0]]
        return _median_gap(during) / _median_gap(before)


def anonymous_bytes(pid: int | str) -> int:
    """Of a process: memory that no file stands behind."""
    with suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


def rate_together(times: Sequence[Sequence[float]]) -> float:
    """Tokens a second of several streams while all of them decode. times: of each stream's tokens.

    Each counts from the first to the last of its own tokens in that time: streams whose tokens come together do not come in
    the same moment, and a step that is cut off at the end of some would be one of few.
    """
    start, stop = max(stream[0] for stream in times), min(stream[-1] for stream in times)
    inside = [[at for at in stream if start <= at <= stop] for stream in times]
    return sum((len(some) - 1) / (some[-1] - some[0]) for some in inside if some and some[-1] > some[0])


def _tokens_together(times: Sequence[Sequence[float]]) -> int:
    """Of the stream that has had most since all of them have begun."""
    if not all(times):
        return 0
    start = max(stream[0] for stream in times)
    return max(len(stream) - bisect(stream, start) for stream in times)


def _median_gap(times: Sequence[float]) -> float:
    return median(later - earlier for earlier, later in itertools.pairwise(times))

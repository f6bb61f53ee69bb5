"""Moderate load on a gateway while nodes join and leave: `python -m tests.gateway.soak SECONDS`.

Four callers ask all the time, streaming or not; some hang up, some ask for what there is not. Every answer is compared with
the model's own. Each few seconds a node is killed, stopped or added. Prints what there was.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from swarm.testing.integer_model import IntegerModel
from tests.gateway.words import NAME, Words, words

MODEL = IntegerModel(layer_seconds=0.0005)
PARTS = ["b 0-6", "6-12 e"]
CALLERS = 4
CHANGE_SECONDS = (3.0, 8.0)  # between two changes of the swarm
REST_SECONDS = 0.05  # of a caller between two requests
WARM_REQUESTS = 400  # after which memory is held against what it is at the end
STRETCHES = 6


@dataclass
class Seen:
    """What there was. failed: answers that did not come, or were wrong."""

    answers: Counter[str] = field(default_factory=Counter[str])
    failed: list[str] = field(default_factory=list[str])
    changes: Counter[str] = field(default_factory=Counter[str])
    warm: tuple[int, int] = (0, 0)  # bytes and descriptors of the gateway
    last: tuple[int, int] = (0, 0)
    most: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # of each stretch of the time

    @property
    def requests(self) -> int:
        return self.answers.total()

    def note(self, stretch: int, used: tuple[int, int]) -> None:
        """Bytes and descriptors now, in a stretch of the time."""
        while len(self.most) <= stretch:
            self.most.append((0, 0))
        (size, count), (most_bytes, most_count) = used, self.most[stretch]
        self.most[stretch] = max(size, most_bytes), max(count, most_count)

    def describe(self) -> str:
        grown, opened = (after - before for before, after in zip(self.warm, self.last, strict=True))
        return (
            f"{self.requests} requests {dict(self.answers)}, {len(self.failed)} failed; changes {dict(self.changes)}; "
            f"gateway {self.last[0] / 1e6:.1f} MB ({grown / 1e6:+.1f}), {self.last[1]} descriptors ({opened:+d}); at most "
            + ", ".join(f"{size / 1e6:.1f} MB {count}" for size, count in self.most)
        )


class Caller(threading.Thread):
    """Asks one thing after the other until it is told to stop."""

    def __init__(self, swarm: Words, seen: Seen, seed: int, rest_seconds: float, is_over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._swarm = swarm
        self._seen = seen
        self._rng = random.Random(seed)
        self._rest_seconds = rest_seconds
        self._is_over = is_over

    def run(self) -> None:
        while not self._is_over.wait(self._rest_seconds):
            kind = self._rng.choices(["stream", "whole", "gone", "wrong"], [5, 3, 1, 1])[0]
            try:
                self._ask(kind)
            except Exception as error:  # told at the end
                self._seen.failed.append(f"{kind}: {type(error).__name__}: {error}")
            self._seen.answers[kind] += 1

    def _ask(self, kind: str) -> None:
        ids = [self._rng.randrange(1000) for _ in range(self._rng.randint(1, 40))]
        count = self._rng.randint(1, 60)
        asked = {
            "model": "another" if kind == "wrong" else NAME,
            "messages": [{"role": "user", "content": " ".join(f"w{one}" for one in ids)}],
            "max_tokens": count,
            "temperature": 0,
            "stream": kind in ("stream", "gone"),
        }
        connection = http.client.HTTPConnection(*self._swarm.gateway.address, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(asked))
        answer = connection.getresponse()
        if kind == "wrong":
            assert answer.status == 404, answer.status
        elif kind == "gone":
            answer.read(self._rng.randint(1, 2000))
        else:
            text = _read_stream(answer) if kind == "stream" else json.load(answer)["choices"][0]["message"]["content"]
            expected = [f"w{token}" for token in MODEL.answer(ids, count)]
            assert text.split() == expected, f"{text} is not {expected}"
        connection.close()


def _read_stream(answer: http.client.HTTPResponse) -> str:
    text = ""
    for line in answer:
        if line.startswith(b"data: {"):
            told = json.loads(line[6:])
            assert "error" not in told, told
            text += told["choices"][0]["delta"].get("content", "")
    return text


def run(
    swarm: Words,
    seconds: float,
    seed: int,
    *,
    callers: int = CALLERS,
    rest_seconds: float = REST_SECONDS,
    has_changes: bool = True,
    most: int = 1 << 60,
) -> Seen:
    """For so long, or until so many requests have been answered. Raises nothing: what failed is told."""
    seen, is_over, rng = Seen(), threading.Event(), random.Random(seed)
    process = psutil.Process(swarm.gateway.process.pid)
    threads = [Caller(swarm, seen, seed + number, rest_seconds, is_over) for number in range(callers)]
    for caller in threads:
        caller.start()
    begun = time.monotonic()
    end = begun + seconds
    change = time.monotonic() + CHANGE_SECONDS[0]
    while time.monotonic() < end and seen.requests < most:
        time.sleep(0.1)
        stretch = int(STRETCHES * (time.monotonic() - begun) / seconds)
        used = process.memory_info().rss, process.num_fds()
        seen.note(stretch, used)
        if not seen.warm[0] and seen.requests >= WARM_REQUESTS:
            seen.warm = used
        if has_changes and time.monotonic() > change:
            seen.changes[_change(swarm, rng)] += 1
            change = time.monotonic() + rng.uniform(*CHANGE_SECONDS)
    is_over.set()
    for caller in threads:
        caller.join()
    seen.last = process.memory_info().rss, process.num_fds()
    return seen


def _change(swarm: Words, rng: random.Random) -> str:
    """Kill or stop a node of which there is another, else add one."""
    running = [node for node in swarm.nodes if node.popen.poll() is None]
    part = rng.choice(PARTS)
    serving = [node for node in running if node.part == part]
    if len(serving) < 2 or (len(serving) < 3 and rng.random() < 0.5):
        swarm.add(part)
        return "joined"
    node = rng.choice(serving)
    if rng.random() < 0.5:
        node.popen.kill()
        return "killed"
    node.leave()
    return "left"


def main(seconds: str) -> None:
    with tempfile.TemporaryDirectory() as home, words(Path(home), MODEL, PARTS * 2, 700) as swarm:
        seen = run(swarm, float(seconds), seed=1)
    print(seen.describe())
    for failure in seen.failed[:20]:
        print(failure)
    sys.exit(bool(seen.failed))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How near a part that streams layers comes to its limit: what it computes with all kept, or what its source gives.

In one process, so that nothing but the ring is measured. The source is slowed down to a rate by a token bucket around each
read, which lends no more than two pieces.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from swarm.bench.checkpoint import make_checkpoint
from swarm.bench.shapes import Shape
from swarm.decoder.builder import Streaming
from swarm.decoder.cache import KvCache
from swarm.decoder.direct import PIECE_BYTES, DirectFile
from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart
from swarm.loading import init_part
from swarm.node.residence import BUFFERS, spread
from swarm.parts import Part

PROMPT, LONG_PROMPT = 16, 512
WARM_TOKENS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What to run. rates: of the source, bytes a second. tokens: of an answer, for each measurement."""

    shape: Shape
    rates: tuple[float, ...] = (1e9, 2e9)
    rounds: int = 3
    tokens: int = 12


class Bucket:
    """Bytes that a source gives: so many a second, and two pieces at once."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._paid_until = 0.0

    def take(self, size: int) -> None:
        """Wait until they are there."""
        if self.rate is None:
            return
        now = time.perf_counter()
        self._paid_until = max(self._paid_until, now - 2 * PIECE_BYTES / self.rate) + size / self.rate
        if self._paid_until > now:
            time.sleep(self._paid_until - now)


class SlowFile(DirectFile):
    """A file that a bucket slows down."""

    def __init__(self, path: Path, bucket: Bucket) -> None:
        super().__init__(path)
        self._bucket = bucket

    def _read_piece(self, memory: memoryview, offset: int) -> int:
        count = super()._read_piece(memory, offset)
        self._bucket.take(count)
        return count


def run(plan: StreamPlan, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Every figure by name: with half of the layers streamed, beside all kept; medians over rounds in turn."""
    weights = folder / "weights"
    say("making the checkpoint")
    make_checkpoint(plan.shape, weights)
    layers = plan.shape.layers
    part = Part(layers, ranges=((0, layers),))
    bucket = Bucket()
    kept = init_part(weights, part)
    streamed = spread(range(layers), layers // 2)
    streaming = init_part(weights, part, streaming=Streaming(streamed, BUFFERS, lambda path: SlowFile(path, bucket)))
    pass_bytes = sum(path.stat().st_size for path in (weights / "packed").iterdir())
    figures: dict[str, list[float]] = {}
    for number in range(plan.rounds + 1):
        say(f"round {number} of {plan.rounds}{' (warm-up)' if number == 0 else ''}")
        measured = _measure(plan, kept)
        found = {f"kept_{name}": value for name, value in measured.items()}
        for rate in plan.rates:
            bucket.rate = rate
            before = streaming.shelf.waited_seconds
            for name, seconds in _measure(plan, streaming).items():
                limit = max(measured[name], pass_bytes / rate)
                found[f"{rate / 1e9:g}_gb_{name}"] = seconds
                found[f"{rate / 1e9:g}_gb_{name}_of_limit"] = limit / seconds
            found[f"{rate / 1e9:g}_gb_waited_seconds"] = streaming.shelf.waited_seconds - before
        bucket.rate = None
        if number:
            for name, value in found.items():
                figures.setdefault(name, []).append(value)
    return {"pass_bytes": pass_bytes, **{name: median(values) for name, values in figures.items()}}


def _measure(plan: StreamPlan, part: DecoderPart) -> dict[str, float]:
    """Seconds of a token, of a token of 16 sessions together, of a prompt."""
    hidden = torch.randn(LONG_PROMPT, part.decoder.hidden, generator=torch.Generator().manual_seed(0)).to(part.dtype)
    return {
        "token_seconds": _time_tokens(plan, part, hidden, 1),
        "token_of_16_seconds": _time_tokens(plan, part, hidden, 16),
        "prompt_512_seconds": _time(lambda: part(hidden, part.new_cache(LONG_PROMPT))),
    }


def _time_tokens(plan: StreamPlan, part: DecoderPart, hidden: torch.Tensor, sessions: int) -> float:
    caches: list[KvCache] = [part.new_cache(PROMPT + plan.tokens + WARM_TOKENS) for _ in range(sessions)]
    rows = hidden[:PROMPT].repeat(sessions, 1)
    part.run_layers(rows, [Span(cache, PROMPT) for cache in caches])
    seconds: list[float] = []
    for _ in range(plan.tokens + WARM_TOKENS):
        spans = [Span(cache, 1) for cache in caches]
        seconds.append(_time(lambda spans=spans: part.run_layers(hidden[:sessions], spans)))
    return sum(seconds[WARM_TOKENS:]) / plan.tokens


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

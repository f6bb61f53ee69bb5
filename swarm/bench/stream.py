"""How near a part that streams layers comes to its limit: what it computes with all kept, or what its source gives.

In one process, so that nothing but the ring is measured; and accelerate, which offloads layers to disk, in another one.
Rates from 2 GB/s on are read from the page cache, which gives more than that.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from swarm.bench.offload_rival import OffloadRival
from swarm.bench.rounds import measure_rounds
from swarm.bench.shapes import Shape
from swarm.bench.stream_chain import CHAIN_RATE
from swarm.bench.throttle import Bucket, CachedFile, SlowFile
from swarm.decoder.buffer import Memory
from swarm.decoder.builder import Streaming
from swarm.decoder.cache import KvCache
from swarm.decoder.direct import DirectFile
from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart
from swarm.decoder.schemes import quantisation_named
from swarm.loading import init_part
from swarm.node.residence import spread
from swarm.parts import whole
from swarm.plan.costs import buffers_for

PROMPT, LONG_PROMPT = 16, 512
WARM_TOKENS = 2
CACHED_RATE = 2e9  # from here on what is read comes from the page cache


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What to run. rates: of the source, bytes a second. tokens: of an answer, for each measurement.

    form: of the matrices; None: as they are. has_rival: measure accelerate, too, with half and all of it offloaded.
    """

    shape: Shape
    rates: tuple[float, ...] = (1e9, 2e9)
    rounds: int = 3
    tokens: int = 12
    form: str | None = None
    has_rival: bool = False


@dataclass(frozen=True, slots=True)
class _Side:
    """A part that streams some layers, from files that a bucket slows down."""

    part: DecoderPart
    bucket: Bucket
    files: Sequence[DirectFile]

    @property
    def pass_bytes(self) -> int:
        return sum(file.size for file in self.files)


def run(plan: StreamPlan, weights: Path, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Every figure by name: with half of the layers streamed, beside all kept; medians over rounds in turn.

    weights: a sepweight directory of the shape. folder: for what the rival offloads.
    """
    layers, half = plan.shape.layers, plan.shape.layers // 2
    kept = _load(plan, weights)
    sides = {rate: _stream(plan, weights, half, is_cached=rate >= CACHED_RATE) for rate in plan.rates}
    free = _stream(plan, weights, half, is_cached=False)
    pairs: list[tuple[str, _Side, OffloadRival, Sequence[float]]] = []
    with ExitStack() as stack:
        if plan.has_rival:
            everything = _stream(plan, weights, layers, is_cached=True)
            some = _stream(plan, weights, half, is_cached=True)
            for name, side, count, rates in (
                ("half", some, half, (CHAIN_RATE, *plan.rates)),
                ("all", everything, layers, plan.rates),
            ):
                say(f"starting accelerate with {count} layers on disk")
                rival = OffloadRival(weights, folder / name, count)
                stack.callback(rival.close)
                pairs.append((name, side, rival, rates))

        def measure(number: int) -> dict[str, float]:
            measured = _measure(plan, kept)
            found = {f"kept_{name}": value for name, value in measured.items()}
            for rate, side in sides.items():
                found |= _measure_streaming(plan, side, rate, measured)
            found |= _measure_unthrottled(plan, free, kept, measured["token_of_16_seconds"])
            for name, side, rival, rates in pairs:
                for rate in rates:
                    found |= _measure_beside(plan, name, side, rival, rate)
            return found

        return {"pass_bytes": free.pass_bytes} | measure_rounds(plan.rounds, measure, say)


def _load(plan: StreamPlan, weights: Path, streaming: Streaming | None = None) -> DecoderPart:
    quantisation = None if plan.form is None else quantisation_named(plan.form, plan.form)
    return init_part(weights, whole(plan.shape.layers), quantisation=quantisation, streaming=streaming)


def _stream(plan: StreamPlan, weights: Path, count: int, is_cached: bool) -> _Side:
    bucket, kind = Bucket(), CachedFile if is_cached else SlowFile
    opened: list[DirectFile] = []

    def open_file(path: Path) -> DirectFile:
        opened.append(kind(path, bucket))
        return opened[-1]

    numbers = spread(range(plan.shape.layers), count)
    return _Side(_load(plan, weights, Streaming(numbers, buffers_for(count), open_file)), bucket, opened)


# Measuring ------------------------------------------------------------------------------------------------------------


Figures = Iterator[tuple[str, float]]


def _measure_streaming(plan: StreamPlan, side: _Side, rate: float, kept: Mapping[str, float]) -> Figures:
    side.bucket.rate = rate
    before = side.part.shelf.reads.waited_seconds
    for name, seconds in _measure(plan, side.part).items():
        yield f"{_gb(rate)}_{name}", seconds
        yield f"{_gb(rate)}_{name}_of_limit", max(kept[name], side.pass_bytes / rate) / seconds
    yield f"{_gb(rate)}_waited_seconds", side.part.shelf.reads.waited_seconds - before


def _measure_unthrottled(plan: StreamPlan, side: _Side, kept: DecoderPart, kept_of_16: float) -> Figures:
    """What comes from disk while tokens are computed, beside what it gives while as many are and nobody waits for it.

    kept_of_16: seconds of a token of 16 sessions with all layers kept.
    """
    seconds = _time_tokens(plan, side.part, 1)
    rate = side.pass_bytes / seconds
    with _Reader([file.path for file in side.files]) as reader:
        _time_tokens(plan, kept, 1, period=seconds)
    yield "unthrottled_gb_a_second", rate / 1e9
    yield "unthrottled_of_reader", rate / reader.rate
    seconds = _time_tokens(plan, side.part, 16)
    yield "unthrottled_token_of_16_seconds", seconds
    yield "unthrottled_token_of_16_seconds_of_limit", max(kept_of_16, side.pass_bytes / reader.rate) / seconds


def _measure_beside(plan: StreamPlan, name: str, side: _Side, rival: OffloadRival, rate: float) -> Figures:
    side.bucket.rate = rate
    ours, theirs = _time_tokens(plan, side.part, 1), rival.measure(rate, plan.tokens)
    yield f"{_gb(rate)}_{name}_ours_token_seconds", ours
    yield f"{_gb(rate)}_{name}_accelerate_token_seconds", theirs["token_seconds"]
    yield f"{_gb(rate)}_{name}_of_accelerate", theirs["token_seconds"] / ours
    yield f"{name}_accelerate_anonymous_gb", theirs["anonymous_bytes"] / 1e9


def _gb(rate: float) -> str:
    return f"{rate / 1e9:g}_gb"


class _Reader:
    """Reads files again and again, while it is entered."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.rate = 0.0  # bytes a second, afterwards
        self._files = [DirectFile(path) for path in paths]
        self._memory = Memory(max(file.size for file in self._files))
        self._is_over = False
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()

    def _read(self) -> None:
        done, start = 0, time.perf_counter()
        for file in itertools.cycle(self._files):
            file.read_into(self._memory.view)
            done += file.size
            if self._is_over:
                break
        self.rate = done / (time.perf_counter() - start)
        for file in self._files:
            file.close()


def _measure(plan: StreamPlan, part: DecoderPart) -> dict[str, float]:
    """Seconds of a token, of a token of 16 sessions together, of a prompt."""
    ids = _draw_ids(plan, LONG_PROMPT)
    return {
        "token_seconds": _time_tokens(plan, part, 1),
        "token_of_16_seconds": _time_tokens(plan, part, 16),
        "prompt_512_seconds": _time(lambda: _step(part, ids, [Span(part.new_cache(LONG_PROMPT), LONG_PROMPT)])),
    }


def _draw_ids(plan: StreamPlan, count: int) -> torch.Tensor:
    return torch.randint(12, plan.shape.vocabulary, (count,), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _step(part: DecoderPart, ids: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
    """The next token of each span."""
    assert part.head is not None
    hidden = part.run_layers(part.enter(ids), spans)
    last = list(itertools.accumulate(span.length for span in spans))
    return part.head(hidden[[stop - 1 for stop in last]]).argmax(-1)


def _time_tokens(plan: StreamPlan, part: DecoderPart, sessions: int, period: float = 0.0) -> float:
    """Seconds of one. period: so long at least, asleep."""
    caches: list[KvCache] = [part.new_cache(PROMPT + plan.tokens + WARM_TOKENS) for _ in range(sessions)]
    ids = _step(part, _draw_ids(plan, PROMPT).repeat(sessions), [Span(cache, PROMPT) for cache in caches])
    for number in range(WARM_TOKENS + plan.tokens):
        if number == WARM_TOKENS:
            start = time.perf_counter()
        began = time.perf_counter()
        ids = _step(part, ids, [Span(cache, 1) for cache in caches])
        time.sleep(max(0.0, began + period - time.perf_counter()))
    return (time.perf_counter() - start) / plan.tokens  # pyright: ignore[reportPossiblyUnboundVariable]


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

"""All that a node asks of its engines, in a row: load, prompt, decode, a batch of sixteen, end, move, forget.

The same on every device: what comes out on one must come out on another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from swarm.decoder.device import Device
from swarm.decoder.scheme import Scheme
from swarm.families import family_named
from swarm.messages.sampling import Sampling
from swarm.messages.tensors import WireTensor, ids_tensor
from swarm.models import ModelKey
from swarm.node.batches import Batch, BatchResult, Want, WorkSpan
from swarm.node.compute.engine import DecoderEngine, DecoderLoader
from swarm.node.compute.models import WeightsSource
from swarm.node.residence import ALL_KEPT, Residence
from swarm.parts import Part, parse_part
from swarm.sepweight.manifest import read_manifest
from swarm.sepweight.scheme import Quantisation

MODEL = ModelKey("1" * 32, "float32")
LAYERS = 4
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.9, top_k=20, seed=5),
    Sampling(temperature=1.1, top_p=0.8, seed=6),
    Sampling(temperature=0.8, typical_p=0.9, repetition_penalty=1.2, seed=7),
    Sampling(repetition_penalty=1.3),
)


@dataclass
class Talk:
    """A session: all its ids, and how many of them have passed."""

    name: str
    ids: list[int]
    sampling: Sampling
    end: int = 0


@dataclass
class EngineScript:
    """Two engines that share a model, and what they have said.

    running: entered around what touches the device. on_load, on_batch: called after each, the second with what it was.
    """

    weights: Path
    device: Device
    running: Callable[[], AbstractContextManager[None]]
    on_batch: Callable[[Batch], None] = lambda batch: None
    on_load: Callable[[], None] = lambda: None
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    quantisation: Quantisation[Scheme] | None = None
    is_streamed: bool = False  # all layers, through one buffer

    def play(self) -> list[list[int]]:
        """Run it; every session's ids."""
        loader = loader_of(self.weights, self.device, self.quantisation)
        first, second = parse_part("b 0-2", LAYERS), parse_part("2-4 e", LAYERS)
        engines = [self.load(loader, first, None), self.load(loader, second, None)]
        parts = [first, second]
        alone = Talk("alone", [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], SAMPLINGS[1])
        self.advance(engines, parts, [alone], 7)
        self.advance(engines, parts, [alone], 5)
        for _ in range(3):
            self.advance(engines, parts, [alone])
        many = [
            Talk(f"many-{index}", [7 + index, *range(2, 3 + index % 5)], SAMPLINGS[index % 5]) for index in range(16)
        ]
        self.advance(engines, parts, many, *(len(talk.ids) for talk in many))
        for _ in range(2):
            self.advance(engines, parts, many)
        with self.running():
            engines[0].forget("many-3", first)
            engines[1].forget("many-3", second)
        engines[1] = self.load(loader, parse_part("b 0-4 e", LAYERS), engines[1])  # and goes on with what it has cached
        self.advance(engines, parts, [alone, *many[:3], *many[4:]])
        later = Talk("later", [8, 8, 1], SAMPLINGS[2])
        for length in (3, 1, 1):
            self.advance(engines[1:], [engines[1].part.part], [later], length)
        checked = self.check_drafts(engines[1], Talk("drafts", [5, 3, 5, 8, 9, 7], SAMPLINGS[3]))
        with self.running():
            for engine in engines:
                for session, part in list(engine.cached):
                    engine.forget(session, part)
        return [*(talk.ids for talk in (alone, *many, later)), checked]

    def load(self, loader: DecoderLoader, part: Part, old: DecoderEngine | None) -> DecoderEngine:
        residence = Residence(part.layers, 1) if self.is_streamed else ALL_KEPT
        *_, make = loader.load(MODEL, part, residence, old)
        assert callable(make)
        with self.running():
            engine = make(old)
        assert isinstance(engine, DecoderEngine)
        self.on_load()
        return engine

    def advance(
        self, engines: Sequence[DecoderEngine], parts: Sequence[Part], talks: Sequence[Talk], *lengths: int
    ) -> None:
        """Send the next ids of some sessions, one or as many as `lengths` say, through a chain; tokens become theirs."""
        lengths = lengths or (1,) * len(talks)
        inputs = tuple(
            ids_tensor(talk.ids[talk.end : talk.end + length]) for talk, length in zip(talks, lengths, strict=True)
        )
        result: BatchResult | None = None
        for engine, part in zip(engines, parts, strict=True):
            if result is not None:
                inputs = cut(result.outputs[0], lengths)
            result = self.run(engine, part, talks, lengths, inputs)
        assert result is not None
        drawn = iter(result.drawn)
        for talk, length in zip(talks, lengths, strict=True):
            talk.end += length
            if talk.end == len(talk.ids):
                talk.ids += next(drawn).ids

    def check_drafts(self, engine: DecoderEngine, talk: Talk) -> list[int]:
        """What a session's last three ids should have been, and the two likeliest of each."""
        want = Want(talk.sampling, 4, talk.ids, rows=3, given=(8, 9, 7), top=2)
        span = WorkSpan(talk.name, 1, 0, 0, len(talk.ids), 200, True, want)
        batch = Batch(next(self.numbers), MODEL, engine.part.part, (span,), (ids_tensor(talk.ids),), ())
        with self.running():
            (drawn,) = engine.run(batch).drawn
        self.on_batch(batch)
        return [*drawn.ids, *(token for row in drawn.top for token, _ in row)]

    def run(
        self,
        engine: DecoderEngine,
        part: Part,
        talks: Sequence[Talk],
        lengths: Sequence[int],
        inputs: tuple[WireTensor, ...],
    ) -> BatchResult:
        spans = tuple(
            WorkSpan(talk.name, 1, 0, talk.end, length, 200, length > 1, _want(talk, length) if part.end else None)
            for talk, length in zip(talks, lengths, strict=True)
        )
        batch = Batch(next(self.numbers), MODEL, part, spans, inputs, () if part.end else (len(talks),))
        with self.running():
            result = engine.run(batch)
        self.on_batch(batch)
        return result


def loader_of(weights: Path, device: Device, quantisation: Quantisation[Scheme] | None = None) -> DecoderLoader:
    family = family_named(read_manifest(weights).family, weights)
    source = WeightsSource(family, weights, 1 << 30, quantisation)
    return DecoderLoader({MODEL: source}, device, None, lambda: None)


def _want(talk: Talk, length: int) -> Want | None:
    if talk.end + length < len(talk.ids):
        return None
    ids = talk.ids if talk.sampling.repetition_penalty != 1.0 else None
    return Want(talk.sampling, len(talk.ids), ids)


def cut(tensor: WireTensor, lengths: Sequence[int]) -> tuple[WireTensor, ...]:
    rows: list[WireTensor] = []
    start = 0
    for length in lengths:
        rows.append(tensor.rows(start, start + length))
        start += length
    return tuple(rows)

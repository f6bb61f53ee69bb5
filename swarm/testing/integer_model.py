"""A model of integers: each layer folds a token's value into a running state that is its cache.

Any step that is skipped, repeated, out of order or fed to the wrong layer changes every later token, so equal answers
prove that the protocol delivered each step exactly once and in order. Needs no torch; a layer takes as long as asked.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from swarm.messages.files import ModelCard
from swarm.messages.sampling import Sampling
from swarm.messages.tensors import WireTensor, ids_of
from swarm.models import ModelKey
from swarm.node.batches import DRAWN, Batch, BatchResult, Drawn, ServedPart, Want
from swarm.node.compute.protocol import Engine, MakeEngine
from swarm.node.residence import ALL_KEPT, Residence
from swarm.parts import Part

_MASK = (1 << 63) - 1
MODEL_ID = "1" * 32
MODEL_KEY = ModelKey(MODEL_ID, "")
CACHE_BYTES = 8
KV_LAYER_BYTES = 1 << 30  # no budget of a test counts KV: whatever sessions reserve fits


@dataclass(frozen=True, slots=True)
class IntegerModel:
    """The shape of the model, and how long a layer takes."""

    layers: int = 12
    vocabulary: int = 1000
    context: int = 4096
    layer_seconds: float = 0.0
    token_seconds: float = 0.0  # of each further token of a batch, in each layer
    end_seconds: float = 0.0  # of the head, where a token is sampled
    hidden: int = 1  # numbers a token between two layers; all but the first are padding
    weights: int = 0  # what tells models of one name apart
    variant: str = ""  # of its weights, and
    kind: str = ""  # of processor, as nodes would tell it

    @property
    def model(self) -> str:
        """Its id."""
        return f"{int(MODEL_ID, 16) + self.weights:032x}"

    @property
    def key(self) -> ModelKey:
        """What a node knows it by."""
        return ModelKey(self.model, self.variant)

    @property
    def card(self) -> ModelCard:
        """What a client is told of it."""
        return ModelCard(
            model=self.model,
            name="integers",
            layers=self.layers,
            context=self.context,
            vocabulary=self.vocabulary,
            end_ids=[],
            documents={},
        )

    def answer(self, prompt: Sequence[int], count: int, sampling: Sampling | None = None) -> list[int]:
        """What an undisturbed run generates."""
        return [token for token, _ in self.answer_with_scores(prompt, count, sampling)]

    def score(self, prompt: Sequence[int], given: Sequence[int]) -> list[float]:
        """How likely each token of a given answer is."""
        return [score for _, score in self.answer_with_scores(prompt, len(given), given=given)]

    def answer_with_scores(
        self, prompt: Sequence[int], count: int, sampling: Sampling | None = None, given: Sequence[int] = ()
    ) -> list[tuple[int, float]]:
        """The same, with each token's log-probability. given: how it begins; that is not drawn."""
        states = [0] * self.layers
        ids = list(prompt)
        value = 0
        for position, token in enumerate(ids):
            value = self._through(token, position, states)
        scores: list[float] = []
        for index in range(count):
            drawn = draw(value, len(ids), sampling or Sampling(), self.vocabulary)
            ids.append(given[index] if index < len(given) else drawn)
            scores.append(how_likely(value, ids[-1]))
            value = self._through(ids[-1], len(ids) - 1, states)
        return list(zip(ids[len(prompt) :], scores, strict=True))

    def _through(self, token: int, position: int, states: list[int]) -> int:
        value = embed(token, position)
        for layer in range(self.layers):
            value = states[layer] = fold(value, layer + self.weights, states[layer])
        return value


def mix(*numbers: int) -> int:
    """A 63-bit hash of integers."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state ^= state >> 29
    return state


def embed(token: int, position: int) -> int:
    return mix(1, token, position)


def fold(value: int, layer: int, state: int) -> int:
    return mix(2, value, layer, state)


def draw(value: int, position: int, sampling: Sampling, vocabulary: int) -> int:
    """The next token; with a temperature it depends on the seed as well."""
    return (mix(3, value, sampling.seed, position) if sampling.temperature else value) % vocabulary


def how_likely(value: int, token: int) -> float:
    """A log-probability."""
    return -(mix(4, value, token) % 1000) / 100


class IntegerEngine:
    """Runs batches on a part of the integer model."""

    def __init__(
        self,
        model: IntegerModel,
        part: Part,
        kv_capacity: int,
        pause: Callable[[float], None] = time.sleep,
        on_layer: Callable[[], None] = lambda: None,
        old: IntegerEngine | None = None,
        residence: Residence = ALL_KEPT,
    ) -> None:
        """old: an engine of another part, whose caches this one takes over. residence: which layers come from disk."""
        self._model = model
        self._pause = pause
        self._on_layer = on_layer
        self._states: dict[tuple[str, Part], dict[int, list[int]]] = {} if old is None else old._states
        self.served = ServedPart(
            model=model.key,
            part=part,
            layers=model.layers,
            context=model.context,
            vocabulary=model.vocabulary,
            hidden=model.hidden,
            dtypes=("int64",),
            cache_bytes=CACHE_BYTES,
            cache_block=1,
            kv_capacity=kv_capacity,
            layer_seconds=model.layer_seconds,
            end_seconds=model.end_seconds if part.end else 0.0,
            prompt_seconds=model.token_seconds,
            chunk_seconds=max(0.0, model.layer_seconds - model.token_seconds),
            kind=model.kind,
            compute_seconds=model.layer_seconds,
            streamed=residence.count_read(part.layers),
        )

    def run(self, batch: Batch) -> BatchResult:
        model = self._model
        seconds = batch.part.layer_count * (model.layer_seconds + (batch.tokens - 1) * model.token_seconds)
        if any(span.want is not None for span in batch.spans):
            seconds += model.end_seconds
        if seconds:
            self._pause(seconds)
        values = [self._run_span(batch, index) for index in range(len(batch.spans))]
        self._on_layer()
        drawn: list[Drawn] = []
        for span, row in zip(batch.spans, values, strict=True):
            if span.want is not None:
                drawn.append(self._draw(row[-span.want.rows :], span.want))
        outputs: list[WireTensor] = []
        first = 0
        for count in batch.groups:
            flat = [value for row in values[first : first + count] for value in row]
            outputs.append(self._pack(flat))
            first += count
        return BatchResult(batch.number, tuple(outputs), tuple(drawn), seconds)

    def _pack(self, values: Sequence[int]) -> WireTensor:
        hidden = self._model.hidden
        padded = struct.Struct(f"<q{8 * (hidden - 1)}x")
        return WireTensor("int64", (len(values), hidden), b"".join(padded.pack(value) for value in values))

    def _unpack(self, tensor: WireTensor) -> list[int]:
        padded = struct.Struct(f"<q{8 * (self._model.hidden - 1)}x")
        return [value for (value,) in padded.iter_unpack(tensor.data)]

    def _draw(self, values: Sequence[int], want: Want) -> Drawn:
        """The likeliest ids are the one drawn and those after it; how likely is a number of the row and the id."""
        vocabulary = self._model.vocabulary
        ids = [draw(value, want.position + row, want.sampling, vocabulary) for row, value in enumerate(values)]
        return Drawn(
            tuple(ids),
            tuple(
                how_likely(value, drawn if token == DRAWN else token)
                for value, token, drawn in zip(values, want.given or (), ids, strict=False)
            ),
            tuple(
                tuple((token % vocabulary, how_likely(value, token)) for token in range(first, first + want.top))
                for value, first in zip(values, ids, strict=True)
            )
            if want.top
            else (),
        )

    def _run_span(self, batch: Batch, index: int) -> list[int]:
        span, tensor = batch.spans[index], batch.inputs[index]
        layers = batch.part.layers
        states = self._states.setdefault((span.session, batch.part), {layer: [] for layer in layers})
        if batch.part.begin:
            values = [embed(token, span.position + offset) for offset, token in enumerate(ids_of(tensor))]
        else:
            values = self._unpack(tensor)
        for layer in layers:
            history = states[layer]
            if len(history) < span.position:
                raise RuntimeError(f"layer {layer} holds {len(history)} positions, the step is at {span.position}")
            del history[span.position :]
            for offset, value in enumerate(values):
                state = history[-1] if history else 0
                values[offset] = fold(value, layer + self._model.weights, state)
                history.append(values[offset])
        return values

    @property
    def cached(self) -> Collection[tuple[str, Part]]:
        return self._states.keys()

    def forget(self, session: str, part: Part) -> None:
        self._states.pop((session, part), None)


class IntegerLoader:
    """Makes integer engines as a node's loader would."""

    def __init__(
        self,
        model: IntegerModel,
        kv_capacity: int,
        on_layer: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """pause: takes the seconds that a batch costs."""
        self._model = model
        self._kv_capacity = kv_capacity
        self._on_layer = on_layer
        self._pause = pause

    def load(
        self, model: str, part: Part, residence: Residence, old: Engine | None
    ) -> Iterator[tuple[int, int] | MakeEngine]:
        del model, residence, old
        yield part.layer_count, part.layer_count

        def make(old: Engine | None) -> Engine:
            assert old is None or isinstance(old, IntegerEngine)
            return IntegerEngine(self._model, part, self._kv_capacity, self._pause, self._on_layer, old)

        yield make

    def trim(self) -> None:
        return

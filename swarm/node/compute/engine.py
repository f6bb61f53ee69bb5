"""Computes with a loaded part of a decoder: caches by session, hidden states through the layers, tokens out of logits.

Lives on the compute thread alone. Knows no queues, leases or peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from swarm.decoder.cache import Cache
from swarm.decoder.description import KEY_BLOCK, DecoderFamily
from swarm.decoder.layer import Span
from swarm.decoder.loading import iterate_loading
from swarm.decoder.part import DecoderPart
from swarm.messages.tensors import WireTensor
from swarm.node.compute.kinds import describe_kind
from swarm.node.compute.protocol import Batch, BatchResult, Engine, MakeEngine, ServedPart, packed_rows
from swarm.node.hops.batching import SAMPLED_ROWS
from swarm.parts import Part
from swarm.sampling import sample
from swarm.sepweight.tensorfile import bytes_of

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
WARM_UP_TOKENS = 32


class DecoderEngine:
    """Runs batches on one part."""

    def __init__(
        self,
        part: DecoderPart,
        model: str,
        kv_capacity: int,
        on_layer: Callable[[], None],
        old: DecoderEngine | None = None,
    ) -> None:
        """on_layer: called after each layer of a step, so that others see that this thread moves.

        old: an engine of another part of the model, whose caches and measurements this one takes over.
        """
        self.part = part
        self._on_layer = on_layer
        self._caches: dict[tuple[str, Part], Cache] = {} if old is None else old._caches
        if old is not None and old.part.part.layer_count:
            layer_seconds, prompt_seconds = old.served.layer_seconds, old.served.prompt_seconds
        else:
            layer_seconds, prompt_seconds = self._warm_up()
        decoder = part.decoder
        self.served = ServedPart(
            model=model,
            part=part.part,
            layers=decoder.layers,
            context=decoder.context,
            vocabulary=decoder.vocabulary,
            hidden=decoder.hidden,
            dtypes=("float32", "float16", "bfloat16"),
            cache_bytes=decoder.cache_bytes(part.dtype.itemsize),
            cache_block=KEY_BLOCK if part.device.type == "cpu" else 1,
            kv_capacity=kv_capacity,
            layer_seconds=layer_seconds,
            end_seconds=self._time_head(),
            prompt_seconds=prompt_seconds,
            kind=describe_kind(part.device),
        )

    def _warm_up(self) -> tuple[float, float]:
        """Seconds of one layer for one token and for one token of a prompt; 0 without layers.

        The first run of each is not counted.
        """
        if not self.part.part.layer_count:
            return 0.0, 0.0
        figures: list[float] = []
        for tokens in (1, WARM_UP_TOKENS):
            times: list[float] = []
            for _ in range(4):
                started = time.perf_counter()
                hidden = torch.zeros(tokens, self.part.decoder.hidden, dtype=self.part.dtype, device=self.part.device)
                out = self.part.run_layers(hidden, [Span(self.part.new_cache(tokens), tokens)], on_layer=self._on_layer)
                self._finish(out)
                times.append(time.perf_counter() - started)
            figures.append(min(times[1:]) / self.part.part.layer_count / tokens)
        return figures[0], figures[1]

    def _time_head(self) -> float:
        """Seconds of one token through the final norm and head."""
        if self.part.head is None:
            return 0.0
        times: list[float] = []
        hidden = torch.zeros(1, self.part.decoder.hidden, dtype=self.part.dtype, device=self.part.device)
        with torch.inference_mode():
            for _ in range(3):
                started = time.perf_counter()
                self._finish(self.part.head(hidden))
                times.append(time.perf_counter() - started)
        return min(times)

    def _finish(self, hidden: Tensor) -> None:
        if hidden.device.type == "cuda":
            torch.cuda.synchronize(hidden.device)

    def run(self, batch: Batch) -> BatchResult:
        """Run a batch; cuts caches back to where its spans begin, then lets them grow."""
        started = time.perf_counter()
        with torch.inference_mode():
            outputs, sampled = self._run(batch)
        return BatchResult(batch.number, outputs, sampled, time.perf_counter() - started)

    def _run(self, batch: Batch) -> tuple[tuple[WireTensor, ...], tuple[int, ...]]:
        """Output tensors by group, and sampled tokens."""
        spans = [self._span(batch, index) for index in range(len(batch.spans))]
        inputs = [_to_torch(tensor) for tensor in batch.inputs]
        packed = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        if batch.part.begin:
            hidden = self.part.enter(packed.to(self.part.device))
        else:
            hidden = packed.to(self.part.device, self.part.dtype)
        only = None if batch.part == self.part.part else batch.part.layers
        hidden = self.part.run_layers(hidden, spans, only, self._on_layer)
        _check_finite(hidden, "hidden states")
        sampled: tuple[int, ...] = ()
        outputs: list[WireTensor] = []
        if batch.part.end:
            sampled = self._sample(batch, hidden)
        else:
            first = 0
            for count in batch.groups:
                length = sum(span.length for span in batch.spans[first : first + count])
                start = sum(span.length for span in batch.spans[:first])
                outputs.append(_to_wire(hidden[start : start + length]))
                first += count
        return tuple(outputs), sampled

    def _span(self, batch: Batch, index: int) -> Span:
        order = batch.spans[index]
        key = (order.session, batch.part)
        cache = self._caches.get(key)
        if cache is None:
            cache = self._caches[key] = self.part.new_cache(order.reserve, batch.part.layers)
        cache.extend(order.reserve)
        cache.truncate(order.position)
        if cache.end != order.position:
            raise RuntimeError(f"cache of session {order.session} ends at {cache.end}, the step is at {order.position}")
        return Span(cache, order.length)

    def _sample(self, batch: Batch, hidden: Tensor) -> tuple[int, ...]:
        wanted = [
            (stop - 1, span.sample)
            for span, (_, stop) in zip(batch.spans, packed_rows(batch.spans), strict=True)
            if span.sample is not None
        ]
        if not wanted:
            return ()
        assert self.part.head is not None
        sampled: list[int] = []
        for start in range(0, len(wanted), SAMPLED_ROWS):
            some = wanted[start : start + SAMPLED_ROWS]
            logits = self.part.head(hidden[[row for row, _ in some]]).cpu()
            _check_finite(logits, "logits")
            for row, (_, order) in zip(logits, some, strict=True):
                sampled.append(sample(row, order.sampling, order.position, (order.ids or ())[: order.position]))
        return tuple(sampled)

    @property
    def cached(self) -> Collection[tuple[str, Part]]:
        """(session, part) of every cache that is held."""
        return self._caches.keys()

    def forget(self, session: str, part: Part) -> None:
        """Free a session's cache of a part."""
        self._caches.pop((session, part), None)


def _check_finite(numbers: Tensor, what: str) -> None:
    """Raise ArithmeticError rather than answer with what follows from damaged weights or an overflow."""
    if not bool(numbers.isfinite().all()):
        raise ArithmeticError(f"{what} hold NaN or infinity; check the weights with swarm-weights verify")


def _to_torch(tensor: WireTensor) -> Tensor:
    # bytearray: received buffers may be unaligned and are read-only
    return torch.frombuffer(bytearray(tensor.data), dtype=DTYPES[tensor.dtype]).reshape(tensor.shape)


def _to_wire(tensor: Tensor) -> WireTensor:
    tensor = tensor.detach().contiguous().cpu()
    data = bytes_of(tensor)
    return WireTensor(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), data)  # pyright: ignore[reportArgumentType]


class DecoderLoader:
    """Loads parts from sepweight directories, a piece at a time."""

    def __init__(
        self,
        weights: Mapping[str, tuple[DecoderFamily, Path]],
        device: str,
        dtype: str | None,
        kv_capacity: Callable[[str, Part], int],
        on_layer: Callable[[], None],
    ) -> None:
        """weights: directory and family by model id; kv_capacity: (model, part) → bytes that are left for KV."""
        self._weights = weights
        self._device = device
        self._dtype = None if dtype is None else DTYPES[dtype]
        self._kv_capacity = kv_capacity
        self._on_layer = on_layer

    def load(self, model: str, part: Part, old: Engine | None) -> Iterator[tuple[int, int] | MakeEngine]:
        """Yield (bytes read, bytes in all), what makes the engine last."""
        assert old is None or isinstance(old, DecoderEngine)
        loaded_before = None if old is None else old.part
        family, directory = self._weights[model]
        loaded = yield from iterate_loading(family, directory, part, self._device, self._dtype, loaded_before)

        def make(old: Engine | None) -> Engine:
            assert old is None or isinstance(old, DecoderEngine)
            return DecoderEngine(loaded, model, self._kv_capacity(model, part), self._on_layer, old)

        yield make

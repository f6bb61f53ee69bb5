"""Computes with a loaded part of a decoder: caches by session, hidden states through the layers, tokens out of logits.

Lives on the compute thread alone. Knows no queues, leases or peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from swarm.decoder.builder import Streaming
from swarm.decoder.cache import KvCache
from swarm.decoder.device import Device
from swarm.decoder.layer import Span
from swarm.decoder.loading import iterate_loading
from swarm.decoder.part import DecoderPart
from swarm.messages.tensors import WireTensor
from swarm.models import ModelKey
from swarm.node.batches import Batch, BatchResult, Drawn, ServedPart
from swarm.node.compute.costs import FEW_TOKENS, MANY_TOKENS, NO_LAYERS, LayerCosts, carry_over, fit_costs
from swarm.node.compute.drawing import collect, draw_rows, plan_drawings
from swarm.node.compute.models import WeightsSource
from swarm.node.compute.protocol import DeviceLost, Engine, MakeEngine
from swarm.node.residence import Residence
from swarm.parts import Part
from swarm.sepweight.tensorfile import bytes_of

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONG_SECONDS = 1.0  # what takes so long is not timed again and again: layers come from disk


class DecoderEngine:
    """Runs batches on one part."""

    def __init__(
        self,
        part: DecoderPart,
        model: ModelKey,
        kv_capacity: int,
        on_layer: Callable[[], None],
        old: DecoderEngine | None = None,
    ) -> None:
        """on_layer: called after each layer of a step, so that others see that this thread moves.

        old: an engine of another part of the model, whose caches and measurements this one takes over.
        """
        self.part = part
        self._on_layer = on_layer
        self._caches: dict[tuple[str, Part], KvCache] = {} if old is None else old._caches
        streamed = _count_streamed(part)
        costs = (None if old is None else self._take_over(old, streamed)) or self._time_layers()
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
            cache_block=part.device.key_block,
            kv_capacity=kv_capacity,
            layer_seconds=costs.token,
            end_seconds=self._time_head(),
            prompt_seconds=costs.prompt_token,
            chunk_seconds=costs.chunk,
            kind=part.device.kind,
            compute_seconds=costs.computing,
            streamed=streamed,
        )

    def _take_over(self, old: DecoderEngine, streamed: int) -> LayerCosts | None:
        """What another part's layers cost, if that tells what these do: to time a long pass takes several of them."""
        if not old.part.part.layer_count:
            return None
        was, rate = old.served, old.part.shelf.reads.bytes_a_second
        costs = LayerCosts(was.layer_seconds, was.chunk_seconds, was.prompt_seconds, was.compute_seconds)
        if streamed == was.streamed:
            return costs
        if not (streamed and was.streamed and rate):
            return None
        waited, waits = (_pass_bytes(part) / rate / part.part.layer_count for part in (old.part, self.part))
        return carry_over(costs, waited, waits)

    def _time_layers(self) -> LayerCosts:
        """What a layer costs here; nothing without layers. Where some come from disk, those that are kept are timed.

        A pass over what is streamed may take minutes, in which nothing would seem to happen: its time is worked out.
        """
        if not self.part.part.layer_count:
            return NO_LAYERS
        streamed = self.part.shelf.streamed
        layers: Sequence[int] = self.part.part.layers
        if streamed is not None:
            layers = sorted(self.part.shelf.resident) or streamed.numbers[:1]
        one, few = self._time_chunk(1, layers), self._time_chunk(FEW_TOKENS, layers)
        if few < 2 * one and self.part.decoder.context >= MANY_TOKENS:
            costs = fit_costs(one, (FEW_TOKENS, few), (MANY_TOKENS, self._time_chunk(MANY_TOKENS, layers)))
        else:
            costs = fit_costs(one, (1, one), (FEW_TOKENS, few))
        costs = replace(costs, computing=one)
        if streamed is None:
            return costs
        if not streamed.reads.bytes_a_second:
            self._time_chunk(1, streamed.numbers[:1])
        return carry_over(
            costs, 0.0, _pass_bytes(self.part) / streamed.reads.bytes_a_second / self.part.part.layer_count
        )

    def _time_chunk(self, tokens: int, layers: Sequence[int]) -> float:
        """Seconds of one of some layers for so many new tokens of a session, but for waiting for a disk.

        The first run is not counted, unless it is long.
        """
        times: list[float] = []
        while len(times) < 4 and sum(times) < LONG_SECONDS:
            started = time.perf_counter() - self.part.shelf.reads.waited_seconds
            hidden = torch.zeros(tokens, self.part.decoder.hidden, dtype=self.part.dtype, device=self.part.device.where)
            span = Span(self.part.new_cache(tokens, layers), tokens)
            self.part.run_layers(hidden, [span], layers, on_layer=self._on_layer)
            self.part.device.finish()
            times.append(time.perf_counter() - self.part.shelf.reads.waited_seconds - started)
        return min(times[1:] or times) / len(layers)

    def _time_head(self) -> float:
        """Seconds of one token through the final norm and head."""
        if self.part.head is None:
            return 0.0
        times: list[float] = []
        hidden = torch.zeros(1, self.part.decoder.hidden, dtype=self.part.dtype, device=self.part.device.where)
        with torch.inference_mode():
            for _ in range(3):
                started = time.perf_counter()
                self.part.head(hidden)
                self.part.device.finish()
                times.append(time.perf_counter() - started)
        return min(times)

    def run(self, batch: Batch) -> BatchResult:
        """Run a batch; cuts caches back to where its spans begin, then lets them grow.

        Raises DeviceLost where nothing can be computed any more.
        """
        started, before = time.perf_counter(), self.part.shelf.reads
        with lost_if_fatal(self.part.device), torch.inference_mode():
            outputs, drawn = self._run(batch)
        seconds, after = time.perf_counter() - started, self.part.shelf.reads
        return BatchResult(
            batch.number,
            outputs,
            drawn,
            seconds,
            after.waited_seconds - before.waited_seconds,
            after.bytes_a_second,
            after.lent - before.lent,
            after.late - before.late,
        )

    def _run(self, batch: Batch) -> tuple[tuple[WireTensor, ...], tuple[Drawn, ...]]:
        """Output tensors by group, and what is drawn. One crossing to the device, one back."""
        device = self.part.device
        spans = [self._span(batch, index) for index in range(len(batch.spans))]
        drawings = plan_drawings(batch.spans, self.part.decoder.vocabulary)
        packed, *placed = device.place([self._pack(batch), *(one for drawing in drawings for one in drawing.tensors)])
        hidden = self.part.enter(packed) if batch.part.begin else packed
        only = None if batch.part == self.part.part else batch.part.layers
        hidden = self.part.run_layers(hidden, spans, only, self._on_layer)
        if not batch.part.end:
            fetched = device.fetch(hidden)
            _check_finite(bool(fetched.isfinite().all()), "hidden states")
            return tuple(_to_wire(rows) for rows in fetched.split(_group_lengths(batch))), ()
        if not drawings:
            _check_finite(bool(device.fetch(hidden.isfinite().all())), "hidden states")
            return (), ()
        assert self.part.head is not None
        found = draw_rows(self.part.head, hidden, drawings, placed, can_count=device.is_host)
        wants = [span.want for span in batch.spans if span.want is not None]
        return (), collect(wants, drawings, device.fetch(found))

    def _pack(self, batch: Batch) -> Tensor:
        """The spans' inputs as one tensor, in what the part takes: ids, or hidden states in its dtype."""
        inputs = [_to_torch(tensor) for tensor in batch.inputs]
        packed = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        return packed if batch.part.begin else packed.to(self.part.dtype)

    def _span(self, batch: Batch, index: int) -> Span:
        order = batch.spans[index]
        key = (order.session, batch.part)
        cache = self._caches.get(key)
        if cache is None:
            cache = self._caches[key] = self.part.new_cache(order.reserve, batch.part.layers)
        cache.extend(order.reserve)
        cache.truncate(order.position)
        if cache.length != order.position:
            raise RuntimeError(
                f"cache of session {order.session} ends at {cache.length}, the step is at {order.position}"
            )
        return Span(cache, order.length)

    @property
    def cached(self) -> Collection[tuple[str, Part]]:
        """(session, part) of every cache that is held."""
        return self._caches.keys()

    def forget(self, session: str, part: Part) -> None:
        """Free a session's cache of a part."""
        self._caches.pop((session, part), None)


@contextmanager
def lost_if_fatal(device: Device) -> Generator[None]:
    """Errors after which a device computes nothing any more become DeviceLost."""
    try:
        yield
    except Exception as error:
        if device.is_fatal(error):
            raise DeviceLost(str(error)) from error
        raise


def _count_streamed(part: DecoderPart) -> int:
    streamed = part.shelf.streamed
    return 0 if streamed is None else len(streamed.numbers)


def _pass_bytes(part: DecoderPart) -> int:
    """That are read for a token."""
    streamed = part.shelf.streamed
    return 0 if streamed is None else streamed.pass_bytes


def _group_lengths(batch: Batch) -> list[int]:
    """Rows of each group's output."""
    lengths = iter([span.length for span in batch.spans])
    return [sum(islice(lengths, count)) for count in batch.groups]


def _check_finite(is_finite: bool, what: str) -> None:
    """Raise ArithmeticError rather than answer with what follows from damaged weights or an overflow."""
    if not is_finite:
        raise ArithmeticError(f"{what} hold NaN or infinity; check the weights with swarm-weights verify")


def _to_torch(tensor: WireTensor) -> Tensor:
    # bytearray: received buffers may be unaligned and are read-only
    return torch.frombuffer(bytearray(tensor.data), dtype=DTYPES[tensor.dtype]).reshape(tensor.shape)


def _to_wire(tensor: Tensor) -> WireTensor:
    """A copy: what the engine computes next may be written where this was, before it has been sent."""
    data = bytes(bytes_of(tensor.contiguous()))
    return WireTensor(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), data)  # pyright: ignore[reportArgumentType]


class DecoderLoader:
    """Loads parts from sepweight directories, a piece at a time."""

    def __init__(
        self,
        weights: Mapping[ModelKey, WeightsSource],
        device: Device,
        dtype: str | None,
        on_layer: Callable[[], None],
    ) -> None:
        self._weights = weights
        self._device = device
        self._dtype = None if dtype is None else DTYPES[dtype]
        self._on_layer = on_layer

    def load(
        self, model: ModelKey, part: Part, residence: Residence, old: Engine | None
    ) -> Iterator[tuple[int, int] | MakeEngine]:
        """Yield (bytes read, bytes in all), what makes the engine last."""
        assert old is None or isinstance(old, DecoderEngine)
        loaded_before = None if old is None else old.part
        source = self._weights[model]
        with lost_if_fatal(self._device):
            streamed = residence.streamed_of(part.layers)
            make_part = yield from iterate_loading(
                source.family,
                source.directory,
                part,
                self._device,
                self._dtype,
                source.quantisation,
                loaded_before,
                Streaming(streamed, residence.buffers) if streamed else None,
            )

        def make(old: Engine | None) -> Engine:
            assert old is None or isinstance(old, DecoderEngine)
            with lost_if_fatal(self._device):
                return DecoderEngine(
                    make_part(), model, part.layer_count * source.most_kv_layer_bytes, self._on_layer, old
                )

        yield make

    def trim(self) -> None:
        """Give memory that nothing uses back to the system."""
        self._device.trim()

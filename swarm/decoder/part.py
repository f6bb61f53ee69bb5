"""A part of a decoder as a plain module: any of embedding, layers, final norm and head.

Knows no sessions beyond the spans it is given, no files and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from swarm.decoder.cache import ContiguousCache, KvCache
from swarm.decoder.calls import Calls, plan_calls
from swarm.decoder.description import Decoder
from swarm.decoder.device import Device
from swarm.decoder.layer import Head, Span, View
from swarm.decoder.positions import PositionTables
from swarm.decoder.shelf import Shelf
from swarm.decoder.sights import look_back
from swarm.errors import RequestError
from swarm.parts import Part


class Piece(Protocol):
    """New positions of some sessions that are run together. hidden: [tokens, hidden], packed by span."""

    @property
    def hidden(self) -> Tensor: ...

    @hidden.setter
    def hidden(self, hidden: Tensor) -> None: ...

    @property
    def spans(self) -> Sequence[Span]: ...


@dataclass(slots=True)
class PackedPiece:
    """A piece in memory."""

    hidden: Tensor
    spans: Sequence[Span]


class DecoderPart(nn.Module):
    """Any part of a decoder: token ids or hidden states in, hidden states or logits out."""

    def __init__(
        self,
        decoder: Decoder,
        part: Part,
        embed: Callable[[Tensor], Tensor] | None,
        shelf: Shelf,
        head: Head | None,
        dtype: torch.dtype,
        device: Device,
    ) -> None:
        """embed: ids [tokens] → [tokens, hidden]. shelf: has the part's layers."""
        super().__init__()
        self.decoder = decoder
        self.part = part
        self.embed = embed
        self.shelf = shelf
        self.head = head
        self.dtype = dtype
        self.device = device
        scale = decoder.embedding_scale
        self._embedding_scale = torch.tensor(scale, dtype=dtype).item() if decoder.rounds_embedding_scale else scale
        self._tables = PositionTables(decoder, dtype, device)
        self._kinds = {decoder.kind(number) for number in part.layers}

    def new_cache(self, reserve: int | None = None, layers: Iterable[int] | None = None) -> KvCache:
        """An empty cache for this part's layers (or some); reserve: positions, the model's context by default."""
        wanted = self.part.layers if layers is None else layers
        positions = reserve or self.decoder.context
        return ContiguousCache(self.decoder, wanted, positions, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, inputs: Tensor | Sequence[int], cache: KvCache | None = None) -> Tensor:
        """Run one sequence's new positions behind what `cache` holds (nothing, without one).

        inputs: ids [tokens] (a list of them does, too) where the part has begin, else hidden states [tokens, hidden]; a
        batch dimension of one before these is dropped.
        Returns hidden states [tokens, hidden], or logits [tokens, vocabulary] in float32 where the part has end.
        Raises RequestError for any other shape.
        """
        inputs = self._as_rows(inputs)
        span = Span(self.new_cache(inputs.shape[0]) if cache is None else cache, inputs.shape[0])
        hidden = self.run_layers(self.enter(inputs), [span])
        return hidden if self.head is None else self.head(hidden)

    def _as_rows(self, inputs: Tensor | Sequence[int]) -> Tensor:
        rows = torch.as_tensor(inputs, device=self.device.where)
        dimensions = 1 if self.part.begin else 2
        if rows.ndim == dimensions + 1 and rows.shape[0] == 1:
            rows = rows[0]
        if rows.ndim != dimensions or not rows.numel():
            wanted = "ids [tokens]" if self.part.begin else f"hidden states [tokens, {self.decoder.hidden}]"
            raise RequestError(f'part "{self.part}" takes {wanted}, got shape {list(rows.shape)}')
        return rows

    def enter(self, inputs: Tensor) -> Tensor:
        """Token ids → embeddings where the part has begin; hidden states as they are elsewhere."""
        if self.embed is None:
            return inputs
        embedded = self.embed(inputs)
        return embedded if self._embedding_scale == 1.0 else embedded * self._embedding_scale

    @torch.inference_mode()
    def run_layers(
        self,
        hidden: Tensor,
        spans: Sequence[Span],
        only: Sequence[int] | None = None,
        on_layer: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Run the layers (or those numbered `only`) on new positions of several sessions at once.

        hidden: [tokens, hidden], packed by span; returns the same shape. Every span's cache advances by its length.
        on_layer is called after each layer, and now and then while one comes from disk.
        """
        numbers = self.part.layers if only is None else only
        pieces = [PackedPiece(hidden, spans)]
        self.run_pieces(pieces, numbers, on_layer)
        return pieces[0].hidden

    @torch.inference_mode()
    def run_pieces(
        self, pieces: Sequence[Piece], numbers: Sequence[int], on_layer: Callable[[], None] = lambda: None
    ) -> None:
        """Run layers on several batches, one after another in each layer: what a layer takes to come is shared by all.

        No session is in two of them. Every span's cache advances by its length.
        """
        alone = self._view(pieces[0].spans) if len(pieces) == 1 else None  # of many, each is made when it is needed
        with closing(self.shelf.lend(numbers, len(pieces), on_layer)) as lent:
            for layer in lent:
                for piece in pieces:
                    spans = piece.spans
                    piece.hidden = layer(piece.hidden, spans, alone or self._view(spans))
                    on_layer()
        for piece in pieces:
            for span in piece.spans:
                span.cache.advance(span.length)

    def _view(self, spans: Sequence[Span]) -> View:
        ranges = [(span.cache.length, span.cache.length + span.length) for span in spans]
        lengths = [span.length for span in spans]
        rotations = {
            kind.rope: self._tables.rotation(kind.rope, ranges) for kind in self._kinds if kind.rope is not None
        }
        calls: dict[int | None, Calls] = {}
        for window in {kind.window for kind in self._kinds}:
            sights = [look_back(self.decoder, self._tables, *one, self.dtype, window) for one in ranges]
            calls[window] = plan_calls(self.decoder, lengths, sights, self.dtype.itemsize)
        return View(rotations, calls)

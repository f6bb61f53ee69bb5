"""Computes many texts together, layer by layer: each layer runs on all of them before the next one is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from swarm.batch.texts import Text
from swarm.decoder.cache import KvCache
from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart, Piece
from swarm.node.batches import Drawn, Want, WorkSpan
from swarm.node.compute.drawing import collect, draw_rows, plan_drawings

PIECE_TOKENS = 1024  # that are run together in a layer, if no text has more


class PassingCache:
    """Keys and values of a text that is gone through once: those of the layer at hand take the place of the last one's."""

    def __init__(self, cache: KvCache, layer: int) -> None:
        """cache: of that layer alone."""
        self.length = 0
        self._cache = cache
        self._layer = layer

    def truncate(self, length: int) -> None:
        self._cache.truncate(length)
        self.length = self._cache.length

    def extend(self, reserve: int) -> None:
        self._cache.extend(reserve)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self._cache.write(self._layer, keys, values)

    def advance(self, count: int) -> None:
        self._cache.advance(count)
        self.length = self._cache.length


class LayerMajor:
    """Steps of a group of texts over a whole decoder. Knows no files, memory or time."""

    def __init__(self, part: DecoderPart, on_layer: Callable[[], None] = lambda: None) -> None:
        """on_layer: called after each piece of each layer."""
        assert part.head is not None
        self._part = part
        self._head = part.head
        self._on_layer = on_layer
        self._caches: dict[str, KvCache] = {}

    def step(self, texts: Sequence[Text]) -> list[Drawn]:
        """Run what is new of each text, and draw its next token or score those given. Raises ArithmeticError."""
        found: list[Drawn] = []
        work = list(_cut([(text, self._fresh(text)) for text in texts]))
        pieces = [self._make_piece(some) for some in work]
        self._part.run_pieces(pieces, self._part.part.layers, self._on_layer)
        with torch.inference_mode():
            for some, piece in zip(work, pieces, strict=True):
                found += self._draw(some, piece.hidden)
        for text in texts:
            if text.is_given:
                self.forget(text)
        return found

    def forget(self, text: Text) -> None:
        """A text is done."""
        self._caches.pop(text.key, None)

    def _cache_of(self, text: Text) -> KvCache:
        cache = self._caches.get(text.key)
        if cache is None:
            layers = self._part.part.layers
            if text.is_given:
                cache = PassingCache(self._part.new_cache(text.positions, layers[:1]), layers[0])
            else:
                cache = self._part.new_cache(text.positions)
            self._caches[text.key] = cache
        return cache

    def _fresh(self, text: Text) -> list[int]:
        """Ids whose positions are not computed yet; the last one of a given answer tells nothing more."""
        return text.ids[self._cache_of(text).length : -1 if text.is_given else None]

    def _make_piece(self, work: Sequence[tuple[Text, list[int]]]) -> Piece:
        ids = torch.tensor([token for _, fresh in work for token in fresh])
        spans = [Span(self._cache_of(text), len(fresh)) for text, fresh in work]
        return Piece(self._part.enter(ids), spans)

    def _draw(self, work: Sequence[tuple[Text, list[int]]], hidden: Tensor) -> tuple[Drawn, ...]:
        spans = [_span(text, len(fresh)) for text, fresh in work]
        drawings = plan_drawings(spans, self._part.decoder.vocabulary)
        placed = [tensor for drawing in drawings for tensor in drawing.tensors]
        rows = draw_rows(self._head, hidden, drawings, placed, can_count=True)
        return collect([span.want for span in spans if span.want is not None], drawings, rows)


def _span(text: Text, length: int) -> WorkSpan:
    """What is to be drawn of a text's new positions."""
    ids = text.ids if text.sampling.repetition_penalty != 1.0 else None
    if text.is_given:
        answer = text.answer
        want = Want(text.sampling, text.prompt, ids, len(answer), tuple(answer))
    else:
        want = Want(text.sampling, len(text.ids), ids)
    return WorkSpan(text.key, 1, 0, 0, length, text.positions, True, want)


def _cut(work: Sequence[tuple[Text, list[int]]]) -> Iterator[list[tuple[Text, list[int]]]]:
    """Texts that are run together."""
    together: list[tuple[Text, list[int]]] = []
    tokens = 0
    for one in work:
        if together and tokens + len(one[1]) > PIECE_TOKENS:
            yield together
            together, tokens = [], 0
        together.append(one)
        tokens += len(one[1])
    if together:
        yield together

"""Computes many texts together, layer by layer: each layer runs on all of them before the next one is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from swarm.batch.rows import Rows
from swarm.batch.texts import Text, count_predicting
from swarm.decoder.cache import KvCache
from swarm.decoder.layer import Head, Span
from swarm.decoder.part import DecoderPart, PackedPiece
from swarm.node.batches import Drawn, Want, WorkSpan
from swarm.node.compute.drawing import collect, draw_rows, plan_drawings

PIECE_TOKENS = 1024  # that are run together in a layer, if no text has more


class Answering:
    """Steps of texts that are answered, over a whole decoder. Knows no files, memory or time."""

    def __init__(self, part: DecoderPart) -> None:
        self._part = part
        self._caches: dict[str, KvCache] = {}

    def step(self, texts: Sequence[Text]) -> list[Drawn]:
        """Run what is new of each text, and draw its next token. Raises ArithmeticError."""
        found: list[Drawn] = []
        work = list(_cut((text, text.ids[self._cache_of(text).length :]) for text in texts))
        pieces = [self._make_piece(some) for some in work]
        self._part.run_pieces(pieces, self._part.part.layers)
        with torch.inference_mode():
            for some, piece in zip(work, pieces, strict=True):
                spans = [_span(text, len(fresh)) for text, fresh in some]
                found += _draw(self._part, spans, piece.hidden)
        return found

    def forget(self, text: Text) -> None:
        """A text is done."""
        self._caches.pop(text.key, None)

    def _cache_of(self, text: Text) -> KvCache:
        if text.key not in self._caches:
            self._caches[text.key] = self._part.new_cache(text.positions)
        return self._caches[text.key]

    def _make_piece(self, work: Sequence[tuple[Text, list[int]]]) -> PackedPiece:
        ids = torch.tensor([token for _, fresh in work for token in fresh])
        spans = [Span(self._cache_of(text), len(fresh)) for text, fresh in work]
        return PackedPiece(self._part.enter(ids), spans)


class PassingThrough:
    """Texts whose every token is given go through a part once. Their hidden states lie in rows between two layers."""

    def __init__(
        self, part: DecoderPart, rows: Rows, work: Sequence[Sequence[Text]], on_piece: Callable[[], None] = lambda: None
    ) -> None:
        """work: the texts of each piece. on_piece: called after each piece of each layer."""
        self._part = part
        self._rows = rows
        self._pieces = [_PassingPiece(part, rows, number, texts, on_piece) for number, texts in enumerate(work)]

    def enter(self, hidden: Callable[[int, int], Tensor] | None = None) -> None:
        """hidden: of the rows from a first to before a last one, where the part does not begin with tokens."""
        start = 0
        for number, piece in enumerate(self._pieces):
            stop = start + piece.tokens
            if hidden is None:
                ids = [token for text in piece.texts for token in text.ids[:-1]]
                self._rows.write(number, self._part.enter(torch.tensor(ids)))
            else:
                self._rows.write(number, hidden(start, stop))
            start = stop
        self._rows.end_layer()

    def run_layer(self, number: int) -> None:
        """Raises RequestError, WeightsError."""
        self._part.run_pieces(self._pieces, [number])
        self._rows.end_layer()

    def score(self, piece: int) -> Sequence[Drawn]:
        """Each text's scores, by the head of the part. Raises ArithmeticError."""
        texts = self._pieces[piece].texts
        with torch.inference_mode():
            return _draw(self._part, [_span(text, count_predicting([text])) for text in texts], self._rows.read(piece))


class _PassingPiece:
    """Texts that are run together. Keys and values of a layer are not needed once it has run."""

    def __init__(
        self, part: DecoderPart, rows: Rows, number: int, texts: Sequence[Text], on_piece: Callable[[], None]
    ) -> None:
        self.texts = texts
        self.tokens = count_predicting(texts)
        self._part = part
        self._rows = rows
        self._number = number
        self._on_piece = on_piece

    @property
    def spans(self) -> Sequence[Span]:
        counts = [count_predicting([text]) for text in self.texts]
        return [Span(_LayerCache(self._part, count), count) for count in counts]

    @property
    def hidden(self) -> Tensor:
        return self._rows.read(self._number)

    @hidden.setter
    def hidden(self, hidden: Tensor) -> None:
        self._rows.write(self._number, hidden)
        self._on_piece()


class _LayerCache:
    """Keys and values of a text in the one layer that runs."""

    def __init__(self, part: DecoderPart, positions: int) -> None:
        self.length = 0
        self._part = part
        self._positions = positions

    def truncate(self, length: int) -> None:
        assert length == 0

    def extend(self, reserve: int) -> None:
        self._positions = max(self._positions, reserve)

    def write(self, layer: int, fresh: Tensor) -> Tensor:
        return self._part.new_cache(self._positions, [layer]).write(layer, fresh)

    def advance(self, count: int) -> None:
        """It is done."""


def cut_given(texts: Iterable[Text]) -> list[list[Text]]:
    """Texts that are given, by what is run together."""
    return [[text for text, _ in some] for some in _cut((text, text.ids[:-1]) for text in texts)]


def _cut(work: Iterable[tuple[Text, list[int]]]) -> Iterator[list[tuple[Text, list[int]]]]:
    """Texts with their new tokens, by what is run together."""
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


def _span(text: Text, length: int) -> WorkSpan:
    """What is to be drawn of a text's new positions."""
    ids = text.ids if text.sampling.repetition_penalty != 1.0 else None
    if text.is_given:
        answer = text.answer
        want = Want(text.sampling, text.prompt, ids, len(answer), tuple(answer))
    else:
        want = Want(text.sampling, len(text.ids), ids)
    return WorkSpan(text.key, 1, 0, 0, length, text.positions, True, want)


def _draw(part: DecoderPart, spans: Sequence[WorkSpan], hidden: Tensor) -> Sequence[Drawn]:
    assert isinstance(part.head, Head)
    drawings = plan_drawings(spans, part.decoder.vocabulary)
    placed = [tensor for drawing in drawings for tensor in drawing.tensors]
    rows = draw_rows(part.head, hidden, drawings, placed, can_count=True)
    return collect([span.want for span in spans if span.want is not None], drawings, rows)

"""An answer as it comes: its token ids, what they spell, and where a stop string ends it. Pure apart from the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from swarm.client.text import StopScanner, TextStream
from swarm.messages.steps import Score


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of the answer and the text that it let out (often "", while a character or stop string may be forming).

    score: how likely it was, where that was asked for.
    """

    token: int
    text: str
    score: Score | None = None


class Answer:
    """What has come of one."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        """stops: strings of which the first ends the answer, and is no part of it."""
        self.ids: list[int] = []
        self.text = ""
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer)
        self._scanner = StopScanner(stops)

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has come: nothing after it counts."""
        return self._scanner.is_stopped

    @property
    def stopped_by(self) -> str | None:
        """The stop string that has come."""
        return self._scanner.found

    def read(self, ids: Sequence[int], scores: Sequence[Score] = ()) -> Iterator[Piece]:
        """Pieces of new ids, up to a stop string. scores: one for each, or none."""
        for number, token in enumerate(ids):
            text = self._scanner.push(self._stream.push(token)).text
            self.ids.append(token)
            self.text += text
            yield Piece(token, text, scores[number] if scores else None)
            if self.is_stopped:
                return

    def finish(self) -> str:
        """The end of the text, which was held back. After a stop string the ids behind the text are dropped."""
        if self.is_stopped:
            self.ids = self.ids[: self._count_ids(self.text)]
            return ""
        rest = self._scanner.push(self._stream.finish()).text + self._scanner.finish()
        self.text += rest
        return rest

    def _count_ids(self, text: str) -> int:
        """How many ids spell no more than a text."""
        count = len(self.ids)
        while count and len(self._tokenizer.decode(self.ids[:count], skip_special_tokens=True)) > len(text):
            count -= 1
        return count

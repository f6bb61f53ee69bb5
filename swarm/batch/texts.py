"""The texts of a batch: what each has so far, what it takes in memory, which run together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from swarm.messages.sampling import Sampling


@dataclass(slots=True)
class Text:
    """A prompt and what follows it: drawn, or given to be scored.

    line: of the input; place: which of the line's texts. ids: the prompt's and those that follow so far.
    """

    line: int
    place: int
    ids: list[int]
    prompt: int  # how many of the ids
    most: int  # that follow
    sampling: Sampling
    is_given: bool = False
    scores: list[float] = field(default_factory=list[float])
    finish: str = ""

    @property
    def answer(self) -> list[int]:
        return self.ids[self.prompt :]

    @property
    def positions(self) -> int:
        """As many as its cache ever holds."""
        return self.prompt + self.most

    @property
    def key(self) -> str:
        return f"{self.line}.{self.place}"


class Given(Protocol):
    """A text that is scored."""

    @property
    def ids(self) -> Sequence[int]: ...


def count_predicting(texts: Iterable[Given]) -> int:
    """Tokens of given texts that predict one: all but the last of each."""
    return sum(len(text.ids) - 1 for text in texts)


@dataclass(frozen=True, slots=True)
class TextBytes:
    """What a position takes: its keys and values in all layers, in one, its hidden state."""

    keys: int
    layer_keys: int
    hidden: int

    def of(self, text: Text) -> int:
        """A text that is answered, all the time."""
        return text.positions * (self.keys + 2 * self.hidden)

    def of_given(self, texts: Sequence[Text]) -> int:
        """Hidden states of texts that go through once."""
        return sum(text.positions for text in texts) * self.hidden

    def of_piece(self, texts: Sequence[Text], tokens: int) -> int:
        """Those of such texts that are in a layer at a time: about so many tokens, or the longest text."""
        return max([tokens, *(text.positions for text in texts)]) * (self.layer_keys + 2 * self.hidden)


def group(texts: Sequence[Text], sizes: TextBytes, budget: int) -> Iterator[list[Text]]:
    """As many texts to be answered at a time as a budget has room for, at least one."""
    together: list[Text] = []
    left = budget
    for text in texts:
        if together and sizes.of(text) > left:
            yield together
            together, left = [], budget
        together.append(text)
        left -= sizes.of(text)
    if together:
        yield together


def seconds_left(step_seconds: float, groups: Sequence[Sequence[Text]]) -> float:
    """Until all groups are done, if every text takes as many steps as it may."""
    return step_seconds * sum(max((_steps(text) for text in texts), default=0) for texts in groups)


def _steps(text: Text) -> int:
    return 0 if text.finish else text.most - len(text.answer)

"""The texts of a batch: what each has so far, what it takes in memory, which run together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class TextBytes:
    """What a position takes: its keys and values in all layers, or in one where the text is scored; its hidden state."""

    drawn: int
    given: int
    hidden: int

    def of(self, text: Text) -> int:
        """While a text is worked at."""
        return text.positions * ((self.given if text.is_given else self.drawn) + self.hidden)


def group(texts: Sequence[Text], sizes: TextBytes, budget: int) -> Iterator[list[Text]]:
    """As many texts at a time as a budget has room for, at least one: first those to be answered."""
    together: list[Text] = []
    left = budget
    for text in sorted(texts, key=lambda text: text.is_given):
        if together and (sizes.of(text) > left or text.is_given != together[0].is_given):
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
    if text.finish:
        return 0
    return 1 if text.is_given else text.most - len(text.answer)

"""Turns token ids into text as they arrive, and watches for stop strings. Pure apart from the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

THOUGHT_BEGIN, THOUGHT_END = "<think>", "</think>"


class TextStream:
    """Decodes an answer token by token, holding back bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0  # ids whose text is out
        self._context = 0  # ids from here on are decoded again with what follows

    def push(self, token: int) -> str:
        """The text that `token` completes; "" while a character is unfinished."""
        self._ids.append(token)
        before = self._decode(self._context, self._shown)
        text = self._decode(self._context, len(self._ids))
        if text.endswith("\ufffd") or len(text) < len(before):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return text[len(before) :]

    def finish(self) -> str:
        """What is still held back, with a replacement sign for what is no character."""
        before = self._decode(self._context, self._shown)
        return self._decode(self._context, len(self._ids))[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        return self._tokenizer.decode(self._ids[start:stop], skip_special_tokens=True)


@dataclass(frozen=True, slots=True)
class Scanned:
    """text: what may be shown now. is_stopped: a stop string has been found, and nothing after it counts."""

    text: str
    is_stopped: bool


class StopScanner:
    """Lets text through until one of the stop strings; holds back any tail that may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None  # the one that has come

    @property
    def is_stopped(self) -> bool:
        return self.found is not None

    def push(self, text: str) -> Scanned:
        self._held += text
        found = [(at, stop) for at, stop in ((self._held.find(stop), stop) for stop in self._stops) if at >= 0]
        if found:
            at, self.found = min(found)
            shown, self._held = self._held[:at], ""
            return Scanned(shown, True)
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        split = len(self._held) - keep
        shown, self._held = self._held[:split], self._held[split:]
        return Scanned(shown, False)

    def finish(self) -> str:
        """The tail that turned out to begin no stop string."""
        held, self._held = self._held, ""
        return held


class ThoughtSplitter:
    """Tells what a model thinks from what it says: the first lies between <think> and </think>."""

    def __init__(self, is_thinking: bool = False) -> None:
        """is_thinking: the prompt has opened a thought already."""
        self.is_thinking = is_thinking
        self._held = ""

    def push(self, text: str) -> list[tuple[str, bool]]:
        """What may be shown now, in order, and whether each piece is thought; a tail that may begin a tag is held back."""
        self._held += text
        shown: list[tuple[str, bool]] = []
        while (at := self._held.find(self._tag)) >= 0:
            shown.append((self._held[:at], self.is_thinking))
            self._held = self._held[at + len(self._tag) :]
            self.is_thinking = not self.is_thinking
        split = len(self._held) - _overlap(self._held, self._tag)
        shown.append((self._held[:split], self.is_thinking))
        self._held = self._held[split:]
        return [(piece, is_thought) for piece, is_thought in shown if piece]

    def finish(self) -> list[tuple[str, bool]]:
        """What is still held back."""
        held, self._held = self._held, ""
        return [(held, self.is_thinking)] if held else []

    @property
    def _tag(self) -> str:
        return THOUGHT_END if self.is_thinking else THOUGHT_BEGIN


def _overlap(text: str, word: str) -> int:
    """How many characters at the end of a text begin a word."""
    for length in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0

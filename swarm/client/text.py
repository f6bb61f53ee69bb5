"""Turns token ids into text as they arrive, and watches for stop strings. Pure apart from the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer


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
        self.is_stopped = False  # one has been found

    def push(self, text: str) -> Scanned:
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            shown = self._held[: min(found)]
            self._held = ""
            self.is_stopped = True
            return Scanned(shown, True)
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        split = len(self._held) - keep
        shown, self._held = self._held[:split], self._held[split:]
        return Scanned(shown, False)

    def _overlap(self, stop: str) -> int:
        """How many characters at the end of what is held begin `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0

    def finish(self) -> str:
        """The tail that turned out to begin no stop string."""
        held, self._held = self._held, ""
        return held

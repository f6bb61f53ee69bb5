"""Answers that a later request may refer to, for an hour. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swarm.client.prompts import Message
from swarm.gateway.failures import Failure

KEPT_SECONDS = 3600.0
MOST_KEPT = 1000
MOST_CHARACTERS = 32 << 20  # of all conversations that are kept


@dataclass(frozen=True, slots=True)
class Stored:
    """said: the conversation with the answer, what it was told first apart. told: the answer as it was told."""

    said: Sequence[Message]
    told: Mapping[str, Any]
    since: float

    @property
    def characters(self) -> int:
        return sum(len(message.content) for message in self.said)


class StoredAnswers:
    """By id, the oldest first."""

    def __init__(self) -> None:
        self._stored: dict[str, Stored] = {}
        self._characters = 0

    def keep(self, name: str, said: Sequence[Message], told: Mapping[str, Any], now: float) -> None:
        """Keep one; the oldest are forgotten for it."""
        self._stored[name] = Stored(said, told, now)
        self._characters += self._stored[name].characters
        while self._stored and self._is_too_much(now):
            self.forget(next(iter(self._stored)))

    def _is_too_much(self, now: float) -> bool:
        oldest = next(iter(self._stored.values()))
        is_full = len(self._stored) > MOST_KEPT or self._characters > MOST_CHARACTERS
        return is_full or now - oldest.since > KEPT_SECONDS

    def find(self, name: str, now: float) -> Stored | None:
        stored = self._stored.get(name)
        return None if stored is None or now - stored.since > KEPT_SECONDS else stored

    def require(self, name: str, now: float) -> Stored:
        """Raises Failure for one that there is not, or not any more."""
        stored = self.find(name, now)
        if stored is None:
            told = f'previous_response_id: there is no response "{name[:100]}"; they are kept for an hour'
            raise Failure(400, told, "previous_response_id", "previous_response_not_found")
        return stored

    def forget(self, name: str) -> bool:
        """Whether there was one."""
        stored = self._stored.pop(name, None)
        if stored is not None:
            self._characters -= stored.characters
        return stored is not None

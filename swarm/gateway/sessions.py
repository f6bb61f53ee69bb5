"""Which of the sessions that rest goes on with a request, and which are given up. Pure.

Requests tell the whole conversation each time; what a session has cached of it need not be computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from swarm.client.transcript import common_prefix

Session = TypeVar("Session")

MOST_RESTING = 64
REST_SECONDS = 600.0  # nodes forget what rests longer


@dataclass(frozen=True, slots=True)
class Resting(Generic[Session]):
    """A session between two answers. ids: that its caches hold."""

    session: Session
    model: str
    ids: Sequence[int]
    since: float


class RestingSessions(Generic[Session]):
    """Those of all models, the one that has rested longest first."""

    def __init__(self, most: int = MOST_RESTING) -> None:
        self._most = most
        self._resting: list[Resting[Session]] = []

    def __len__(self) -> int:
        return len(self._resting)

    def take(self, model: str, ids: Sequence[int]) -> Resting[Session] | None:
        """The session that has the most of these ids cached, and little else; it rests no longer.

        One of which most would be thrown away is left for its own conversation.
        """
        best, most = None, 0
        for one in self._resting:
            shared = common_prefix(one.ids, ids) if one.model == model else 0
            if shared > most and 2 * shared > len(one.ids):
                best, most = one, shared
        if best is not None:
            self._resting.remove(best)
        return best

    def rest(self, session: Session, model: str, ids: Sequence[int], now: float) -> list[Session]:
        """A session's answer is over; sessions that have to be closed for it are returned."""
        self._resting.append(Resting(session, model, ids, now))
        return self._drop(len(self._resting) - self._most)

    def tire(self, now: float) -> list[Session]:
        """Those that have rested too long."""
        return self._drop(sum(now - one.since > REST_SECONDS for one in self._resting))

    def drop_all(self) -> list[Session]:
        return self._drop(len(self._resting))

    def _drop(self, count: int) -> list[Session]:
        given_up = self._resting[: max(0, count)]
        del self._resting[: max(0, count)]
        return [one.session for one in given_up]

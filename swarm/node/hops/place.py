"""This node's place in the queue for its machine's cores, and when it has waited long enough. Pure.

Whoever computes may be stopped or hang with the cores in its hands. After a while a node computes without them: slower
than one at a time, but its answers go on.
"""

from __future__ import annotations

from typing import Literal

PATIENCE_SECONDS = 1.0
PATIENCE_BATCHES = 4.0  # or so many times as long as a batch takes here: those of neighbours take about as long
FADING = 0.9  # of the longest batch, with each further one


class Place:
    """Whether this node has the cores, waits for them, or does not want them."""

    def __init__(self) -> None:
        self.passed_over = 0  # batches computed without the cores
        self._state: Literal["away", "waiting", "holding"] = "away"
        self._since = 0.0
        self._asked = 0.0
        self._is_passed_over = False
        self._longest = 0.0

    @property
    def is_away(self) -> bool:
        """Neither has them nor waits for them."""
        return self._state == "away"

    @property
    def is_holding(self) -> bool:
        return self._state == "holding"

    @property
    def asked_at(self) -> float:
        """When they were first asked for, for what runs next."""
        return self._asked

    def wait(self, now: float) -> None:
        """They are asked for."""
        if self._state == "away":
            self._asked = now
        self._state, self._since, self._is_passed_over = "waiting", now, False

    def take(self) -> None:
        """They are this node's."""
        self._state = "holding"

    def leave(self) -> None:
        """They are given to the next one."""
        self._state = "away"

    def note_batch(self, seconds: float) -> None:
        """A batch took so long here."""
        self._longest = max(seconds, FADING * self._longest)

    def pass_over(self) -> bool:
        """A batch is computed without them; whether it is the first since they were asked for."""
        self.passed_over += 1
        was_passed_over, self._is_passed_over = self._is_passed_over, True
        return not was_passed_over

    def is_overdue(self, now: float) -> bool:
        """Whether to compute without them: who has them does not go on."""
        patience = max(PATIENCE_SECONDS, PATIENCE_BATCHES * self._longest)
        return self._state == "waiting" and now - self._since > patience

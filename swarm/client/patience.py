"""How long an answer bears with trouble before its user is told. Pure."""

from __future__ import annotations

from collections.abc import Hashable

ROUTE_SECONDS = 8.0  # without any chain and without a step towards one, once the answer has begun
REFUSED_SECONDS = 8.0  # without room on any chain
FAILED_SECONDS = 0.1  # where the only chain cannot compute it: time for another try
AGAIN_SECONDS = 0.25  # between two tries
TROUBLE_SECONDS = 30.0  # over chains that all fail


class Patience:
    """Since when no token has come, and not for want of computing; since when there is no chain."""

    def __init__(self, wait_seconds: float) -> None:
        """wait_seconds: what the user is ready to wait in any case."""
        self._wait_seconds = wait_seconds
        self._trouble_since: float | None = None
        self._routeless_since: float | None = None
        self._recovery: Hashable = None
        self._recovering_at = 0.0  # when it last changed

    def begin(self, trouble_since: float | None = None) -> None:
        """Another turn; one that was in trouble before it came here has begun already."""
        self._trouble_since, self._routeless_since = trouble_since, None

    def note_token(self) -> None:
        self._trouble_since = None

    def note_route(self, now: float) -> None:
        """There is a chain. Time without any was no trouble with chains."""
        if self._routeless_since is not None and self._trouble_since is not None:
            self._trouble_since += now - self._routeless_since
        self._routeless_since = None

    def trouble_seconds(self, now: float) -> float:
        return 0.0 if self._trouble_since is None else now - self._trouble_since

    def bears_trouble(self, most: float, now: float) -> bool:
        """Whether to try on, for `most` seconds from the first trouble without a token since."""
        if self._trouble_since is None:
            self._trouble_since = now
        return self.trouble_seconds(now) <= max(most, self._wait_seconds)

    def bears_no_route(self, recovery: Hashable, now: float) -> bool:
        """Whether to wait for a chain: an answer that has begun does while nodes come closer to having one.

        recovery: changes with each step that they make.
        """
        if self._routeless_since is None:
            self._routeless_since, self._recovery, self._recovering_at = now, recovery, now
        if recovery != self._recovery:
            self._recovery, self._recovering_at = recovery, now
        has_begun = self._trouble_since is not None
        is_coming = has_begun and now - self._recovering_at < ROUTE_SECONDS
        return is_coming or now - self._routeless_since < self._wait_seconds

"""How much of a batch is done, told now and then, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable

SAY_SECONDS = 5.0


class Progress:
    """Counts steps of about the same length."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """Steps of another length from here on."""
        self._started = self._said_at = self._clock()
        self._steps = 0

    def note(self, left: float, what: str) -> None:
        """A step is done. left: at most so many more. what: that has been reached."""
        self._steps += 1
        now = self._clock()
        if now - self._said_at > SAY_SECONDS:
            self._said_at = now
            self._say(f"{what}, at most {_time(left * (now - self._started) / self._steps)} left")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

"""How long a simulated node waits for layers that come from disk: one disk that reads ahead as far as there are buffers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from swarm.node.residence import Residence

WEIGHT_BYTES = 90  # of a layer


class SimulatedReader:
    """Reads layers in order, one after another, round and round."""

    def __init__(self, residence: Residence, read_seconds: float, now: float) -> None:
        self._numbers = list(residence.streamed)
        self._buffers = residence.buffers
        self._read_seconds = read_seconds
        self._next = 0  # of the numbers, to be read
        self._free_at = now  # when the disk has read what it was told to
        self._ahead: deque[tuple[int, float]] = deque()  # numbers, and when each is there
        self._fill(now)

    def wait(self, layers: Sequence[int], layer_seconds: float, now: float) -> float:
        """Seconds that a batch over these layers waits, besides what it computes."""
        waited = 0.0
        if len(self._numbers) <= self._buffers:
            return waited
        for number in layers:
            if number in self._numbers:
                if not self._ahead or self._ahead[0][0] != number:
                    self._begin_at(number, now)
                _, there = self._ahead.popleft()
                waited += max(0.0, there - now)
                now = max(now, there)
            now += layer_seconds
            self._fill(now)
        return waited

    def _begin_at(self, number: int, now: float) -> None:
        self._ahead.clear()
        self._next = self._numbers.index(number)
        self._fill(now)

    def _fill(self, now: float) -> None:
        while len(self._ahead) < min(self._buffers, len(self._numbers)):
            self._free_at = max(self._free_at, now) + self._read_seconds
            self._ahead.append((self._numbers[self._next], self._free_at))
            self._next = (self._next + 1) % len(self._numbers)

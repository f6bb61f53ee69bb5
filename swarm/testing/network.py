"""The network of a simulated swarm: what gets through, how late and how often; which cables are broken.

Decides from its own seeded generator. Knows no machines: names are all it sees.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How the network treats messages."""

    least_seconds: float = 0.0005
    most_seconds: float = 0.005
    loss: float = 0.0
    duplication: float = 0.0


class Network:
    """Cables between any two."""

    def __init__(self, rng: random.Random, weather: Weather) -> None:
        self.weather = weather
        self._rng = rng
        self._cuts: set[tuple[str, str]] = set()
        self._slow: dict[tuple[str, str], float] = {}

    def delays(self, source: str, target: str) -> list[float]:
        """Seconds that each copy of a message takes; none if it is lost."""
        weather = self.weather
        extra = self._slow.get((source, target), 0.0)
        copies = 2 if self._rng.random() < weather.duplication else 1
        return [
            extra + self._rng.uniform(weather.least_seconds, weather.most_seconds)
            for _ in range(copies)
            if self._rng.random() >= weather.loss
        ]

    def slow(self, source: str, target: str, seconds: float) -> None:
        """The cable takes so much longer that way."""
        self._slow[source, target] = seconds

    def cut(self, left: str, right: str, *, one_way: bool) -> None:
        self._cuts |= {(left, right)} if one_way else {(left, right), (right, left)}

    def heal(self) -> None:
        self._cuts.clear()

    def passes(self, source: str, target: str) -> bool:
        """Whether the cable carries anything this way."""
        return (source, target) not in self._cuts

    def is_whole(self, left: str, right: str) -> bool:
        """Whether it does both ways, as a connection needs."""
        return self.passes(left, right) and self.passes(right, left)

"""How the next token is chosen, and which settings there are for it."""

from __future__ import annotations

from msgspec import Struct


class Range(Struct, frozen=True):
    """Which values a sampling setting may have. low_open: `low` itself is none."""

    number: type[int] | type[float]
    low: float
    high: float
    low_open: bool = False

    def __str__(self) -> str:
        if self.high > 1 << 20:
            return f"{self.low:g} or more, a whole number"
        return f"{'above ' if self.low_open else ''}{self.low:g} to {self.high:g}"

    def holds(self, value: float) -> bool:
        """Whether a value is one of them; what is no number never is."""
        return (self.low < value if self.low_open else self.low <= value) and value <= self.high


SAMPLING_RANGES = {
    "temperature": Range(float, 0, 100),
    "top_k": Range(int, 0, (1 << 24) - 1),
    "top_p": Range(float, 0, 1, low_open=True),
    "typical_p": Range(float, 0, 1, low_open=True),
    "repetition_penalty": Range(float, 0, 100, low_open=True),
    "seed": Range(int, 0, (1 << 62) - 1),
}


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Temperature 0 is greedy; 0 or 1 switches a filter off as noted.

    Raises ValueError for a value out of its range, here and wherever one arrives.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in SAMPLING_RANGES.items():
            value = getattr(self, name)
            if not allowed.holds(value):
                raise ValueError(f"{name}: {allowed}, got {value}")

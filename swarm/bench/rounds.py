"""Measurements in rounds: what is compared takes turns, for a machine's speed drifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median


def measure_rounds(
    rounds: int, measure: Callable[[int], Mapping[str, float]], say: Callable[[str], None], what: str = ""
) -> dict[str, float]:
    """The median of each figure that `measure` finds in each round, after one round to warm up, number 0."""
    found: list[Mapping[str, float]] = []
    for number in range(rounds + 1):
        say(f"{what}round {number} of {rounds}{'' if number else ' (warm-up)'}")
        found.append(measure(number))
    return {name: median(one[name] for one in found[1:]) for name in found[0]}

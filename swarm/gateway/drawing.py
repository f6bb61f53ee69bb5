"""What all interfaces ask of an answer: how its tokens are drawn, what ends it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swarm.gateway.failures import wrong
from swarm.messages.sampling import SAMPLING_RANGES, Sampling

MOST_STOPS = 64
LONGEST_STOP = 1000  # characters
SEEDS = 1 << 62
DEFAULT_TEMPERATURE = 1.0
MOST_TEMPERATURE = 2.0


def read_sampling(asked: Mapping[str, float | None], defaults: Mapping[str, float], seed: int) -> Sampling:
    """asked: by name, None where the model's own default counts. Raises Failure naming what is out of its range."""
    told = {name: value for name, value in asked.items() if value is not None}
    settings: dict[str, Any] = {"temperature": DEFAULT_TEMPERATURE, **defaults, **told}
    for name, value in settings.items():
        allowed = SAMPLING_RANGES[name]
        if not allowed.holds(value):
            raise wrong(name, f"{allowed}, got {value}")
    if settings["temperature"] > MOST_TEMPERATURE:
        raise wrong("temperature", f"0 to {MOST_TEMPERATURE:g}, got {settings['temperature']:g}")
    return Sampling(**settings, seed=seed % SEEDS)


def read_stops(name: str, stops: Sequence[str]) -> list[str]:
    """Strings that end an answer. Raises Failure for too many, or too long ones."""
    if len(stops) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in stops):
        raise wrong(name, f"at most {MOST_STOPS} strings of {LONGEST_STOP} characters")
    return [stop for stop in stops if stop]


def at_least(name: str, count: int, least: int = 1) -> int:
    """Raises Failure for less."""
    if count < least:
        raise wrong(name, f"{least} or more, got {count}")
    return count

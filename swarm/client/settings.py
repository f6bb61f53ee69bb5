"""What users may set of an answer, from the words that they type."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.errors import RequestError
from swarm.messages.sampling import SAMPLING_RANGES, Range

SPOKEN = ("system", "thinking")  # set by words: any text; on or off
SETTINGS: Mapping[str, Range] = {**SAMPLING_RANGES, "max_tokens": Range(int, 1, (1 << 24) - 1)}


def parse_setting(name: str, text: str) -> int | float:
    """The value of a setting. Raises RequestError in words: "temperature: 0 to 100, got banana"."""
    allowed = SETTINGS.get(name)
    if allowed is None:
        raise RequestError(f"{name or 'nothing'} cannot be set; what can: {', '.join((*SETTINGS, *SPOKEN))}")
    try:
        value = allowed.number(text)
    except ValueError:
        value = float("nan")
    if not allowed.holds(value):
        raise RequestError(f"{name}: {allowed}, got {text or 'nothing'}")
    return value


def parse_switch(name: str, text: str) -> bool:
    """on or off. Raises RequestError."""
    if text not in ("on", "off"):
        raise RequestError(f"{name}: on or off, got {text or 'nothing'}")
    return text == "on"

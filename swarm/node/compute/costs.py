"""What a layer costs, fitted to a few timings. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Seconds of one layer: for a lone token; of a chunk of a prompt, whatever its length, and for each of its tokens."""

    token: float
    chunk: float
    prompt_token: float
    computing: float = 0.0  # of a lone token's, what is no waiting for a disk


NO_LAYERS = LayerCosts(0.0, 0.0, 0.0)


def fit_costs(token: float, few: tuple[int, float], many: tuple[int, float]) -> LayerCosts:
    """A line through two timings, (tokens, seconds), of which the second is longer; never one that promises what is free."""
    (few_tokens, few_seconds), (many_tokens, many_seconds) = few, many
    each = max((many_seconds - few_seconds) / (many_tokens - few_tokens), many_seconds / many_tokens / 100)
    return LayerCosts(token, max(0.0, many_seconds - each * many_tokens), each)

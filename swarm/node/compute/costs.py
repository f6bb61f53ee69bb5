"""What a layer costs, fitted to a few timings. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

# A prompt's chunks are timed with so many tokens, and with more where those cost hardly more than one, as on a card.
FEW_TOKENS, MANY_TOKENS = 32, 512


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


def carry_over(was: LayerCosts, waited: float, waits: float) -> LayerCosts:
    """What layers cost of which more or fewer come from disk than before: computing takes as long as it did.

    waited, waits: seconds of one layer that a pass over what is streamed took, and takes now.
    """
    chunk = max(0.0, was.chunk - waited)
    few, many = (max(waits, chunk + tokens * was.prompt_token) for tokens in (FEW_TOKENS, MANY_TOKENS))
    costs = fit_costs(max(waits, was.computing), (FEW_TOKENS, few), (MANY_TOKENS, many))
    return replace(costs, computing=was.computing)

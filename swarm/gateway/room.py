"""How long an answer may become. Pure.

A session reserves memory for all its tokens when it begins, so one that asks for more than there is would wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.messages.members import Beat
from swarm.parts import parse_part

LEAST_TOKENS = 1024  # are asked for even where less is free: others will have ended by then


def count_free(beats: Sequence[Beat], model: str, layers: int) -> int:
    """Positions of KV that a chain through the model has free now, at its fullest node."""
    free = [0] * (layers + 2)
    for claim in (claim for beat in beats for claim in beat.claims):
        if (claim.model, claim.layers, claim.state) == (model, layers, "serving"):
            for cell in parse_part(claim.part, layers).cells:
                free[cell] = max(free[cell], claim.kv_free_positions)
    return min(free[1:-1])  # the ends have none


def bound_tokens(asked: int | None, prompt: int, context: int, free: int) -> int:
    """Tokens of an answer at most. asked: None leaves half of what is free to others."""
    room = min(context, max(free if asked is not None else free // 2, prompt + LEAST_TOKENS)) - prompt
    return max(1, room if asked is None else min(asked, room))

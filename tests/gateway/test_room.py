"""How long an answer may become."""

from __future__ import annotations

import pytest

from swarm.gateway.room import LEAST_TOKENS, bound_tokens, count_free
from swarm.messages.members import Claim
from tests.beats import make_beat

MODEL = "5" * 32


def claim(part: str, free: int, state: str = "serving") -> Claim:
    return Claim(model=MODEL, name="m", layers=6, part=part, state=state, kv_free_positions=free)  # type: ignore[arg-type]


def test_a_chain_has_as_much_room_as_its_fullest_node() -> None:
    beats = [
        make_beat("a", claim("b 0-3", 900)),
        make_beat("b", claim("3-6 e", 500)),
        make_beat("c", claim("3-6", 700), claim("0-6", 5000, "loading")),
    ]
    assert count_free(beats, MODEL, 6) == 700
    assert count_free(beats[:1], MODEL, 6) == 0
    assert count_free(beats, "f" * 32, 6) == 0


@pytest.mark.parametrize(
    ("asked", "prompt", "context", "free", "expected"),
    [
        (100, 10, 2048, 5000, 100),
        (None, 10, 2048, 8000, 2038),
        (None, 10, 8192, 8000, 3990),
        (32_000, 10, 8192, 4000, 3990),
        (32_000, 10, 8192, 0, LEAST_TOKENS),
        (None, 10, 8192, 0, LEAST_TOKENS),
        (None, 500, 512, 8000, 12),
        (50, 500, 512, 0, 12),
    ],
)
def test_an_answer_asks_for_no_more_than_there_is(
    asked: int | None, prompt: int, context: int, free: int, expected: int
) -> None:
    assert bound_tokens(asked, prompt, context, free) == expected

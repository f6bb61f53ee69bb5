"""What a model thinks is told from what it says, however the text comes in pieces."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.client.text import ThoughtSplitter


def split(pieces: list[str], *, is_thinking: bool = False) -> list[tuple[str, bool]]:
    """Thoughts and sayings in order, neighbours joined."""
    splitter = ThoughtSplitter(is_thinking)
    shown = [one for piece in pieces for one in splitter.push(piece)] + splitter.finish()
    return [
        ("".join(text for text, _ in some), is_thought) for is_thought, some in groupby(shown, key=lambda one: one[1])
    ]


@pytest.mark.parametrize(
    ("text", "is_thinking", "expected"),
    [
        ("hello", False, [("hello", False)]),
        ("<think>well</think>yes", False, [("well", True), ("yes", False)]),
        ("well</think>yes", True, [("well", True), ("yes", False)]),
        ("a < b <thin", False, [("a < b <thin", False)]),
        ("<think>never ends", False, [("never ends", True)]),
        ("a<think>b</think>c<think>d", False, [("a", False), ("b", True), ("c", False), ("d", True)]),
    ],
)
def test_thoughts_lie_between_the_tags(text: str, is_thinking: bool, expected: list[tuple[str, bool]]) -> None:
    assert split([text], is_thinking=is_thinking) == expected
    assert split(list(text), is_thinking=is_thinking) == expected


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "think", ">", "/", "a b", ""])))
def test_pieces_change_nothing(pieces: list[str]) -> None:
    assert split(pieces) == split(["".join(pieces)])

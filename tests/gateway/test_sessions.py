"""Which session goes on with a request."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from swarm.client.transcript import common_prefix
from swarm.gateway.sessions import REST_SECONDS, RestingSessions


def resting(*known: tuple[str, str, list[int]], most: int = 8) -> RestingSessions[str]:
    sessions: RestingSessions[str] = RestingSessions(most)
    for at, (name, model, ids) in enumerate(known):
        assert sessions.rest(name, model, ids, float(at)) == []
    return sessions


def test_the_session_that_has_most_of_a_conversation_goes_on_with_it() -> None:
    sessions = resting(("short", "m", [1, 2]), ("long", "m", [1, 2, 3, 4]), ("other", "m", [1, 9, 9, 9]))
    found = sessions.take("m", [1, 2, 3, 4, 5, 6])
    assert found is not None
    assert found.session == "long"
    again = sessions.take("m", [1, 2, 3, 4, 5, 6])
    assert again is not None
    assert again.session == "short"


def test_one_that_would_lose_most_of_what_it_has_is_left_alone() -> None:
    sessions = resting(("talk", "m", [1, 2, 3, 4, 5, 6]))
    assert sessions.take("m", [1, 2, 3, 9]) is None
    assert sessions.take("m", [1, 2, 3, 4, 9]) is not None


def test_models_have_sessions_of_their_own() -> None:
    sessions = resting(("talk", "m", [1, 2, 3]))
    assert sessions.take("other", [1, 2, 3, 4]) is None


def test_those_that_have_rested_longest_are_given_up() -> None:
    sessions = resting(("a", "m", [1]), ("b", "m", [2]), most=2)
    assert sessions.rest("c", "m", [3], 2.0) == ["a"]
    assert sessions.tire(REST_SECONDS + 1.5) == ["b"]
    assert sessions.drop_all() == ["c"]
    assert sessions.drop_all() == []


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40), st.integers(0, 40))
def test_what_two_conversations_share_is_counted(left: list[int], right: list[int], shared: int) -> None:
    right = left[:shared] + right
    expected = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
    assert common_prefix(left, tuple(right)) == expected

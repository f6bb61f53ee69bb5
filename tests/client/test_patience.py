"""How long an answer waits without a chain: by its user's word, and as long as nodes come closer to one."""

from __future__ import annotations

import pytest

from swarm.client.patience import ROUTE_SECONDS, TROUBLE_SECONDS, Patience


def begun(wait_seconds: float = 0.0) -> Patience:
    """Of an answer whose chain broke at 0 s."""
    patience = Patience(wait_seconds)
    patience.begin()
    assert patience.bears_trouble(TROUBLE_SECONDS, 0.0)
    assert patience.bears_no_route("nothing", 0.0)
    return patience


def test_an_answer_that_has_begun_waits_as_long_as_there_are_steps_towards_a_chain() -> None:
    patience = begun()
    for step in range(20):
        assert patience.bears_no_route(f"{step} MB", 7.0 * step)
    assert patience.bears_no_route("19 MB", 7.0 * 19 + ROUTE_SECONDS - 0.1)
    assert not patience.bears_no_route("19 MB", 7.0 * 19 + ROUTE_SECONDS)


@pytest.mark.parametrize("wait_seconds", [0.0, 20.0])
def test_one_that_has_not_begun_waits_as_its_user_said_whatever_loads(wait_seconds: float) -> None:
    patience = Patience(wait_seconds)
    patience.begin()
    seen = [at for at in range(60) if patience.bears_no_route(f"{at} MB", float(at))]
    assert len(seen) == wait_seconds


def test_time_without_any_chain_is_no_trouble_with_chains() -> None:
    patience = begun()
    for step in range(10):
        assert patience.bears_no_route(f"{step} MB", 7.0 * step)
    patience.note_route(70.0)
    assert patience.bears_trouble(TROUBLE_SECONDS, 70.0 + TROUBLE_SECONDS - 0.1)
    assert not patience.bears_trouble(TROUBLE_SECONDS, 70.0 + TROUBLE_SECONDS + 0.1)

"""Published figures hold still under noise and follow what really changes."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.plan.figures import SAMPLES, Published, round_figure


@given(st.floats(1e-6, 1e3))
def test_rounding_moves_a_figure_by_less_than_five_percent_and_only_once(value: float) -> None:
    rounded = round_figure(value)
    assert rounded == pytest.approx(value, rel=0.045)
    assert round_figure(rounded) == pytest.approx(rounded, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_a_fifth_changes_a_figure_by_one_step_and_hardly_ever(seed: int) -> None:
    rng = random.Random(seed)
    published = Published()
    values: list[float] = []
    for _ in range(1000):
        published.note(0.004 * rng.uniform(0.8, 1.2))
        values.append(published.value)
        assert published.value == pytest.approx(0.004, rel=0.25)
    assert sum(before != after for before, after in itertools.pairwise(values)) <= 1


def test_a_figure_that_nothing_was_measured_for_says_nothing_new() -> None:
    published = Published()
    for _ in range(SAMPLES):
        published.note(0.004)
    for _ in range(10 * SAMPLES):
        published.follow(0.012)
    assert published.value == pytest.approx(0.004, rel=0.05)


def test_what_has_become_slower_is_published_once_it_stays_so() -> None:
    published = Published()
    for _ in range(SAMPLES):
        published.note(0.004)
    for _ in range(SAMPLES // 4):
        published.note(0.008)
        assert published.value == pytest.approx(0.004, rel=0.05)
    for _ in range(3 * SAMPLES):
        published.note(0.008)
    assert published.value == pytest.approx(0.008, rel=0.05)
    assert Published().value == 0.0

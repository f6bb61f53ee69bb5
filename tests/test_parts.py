"""Part arithmetic as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import RequestError
from swarm.parts import (
    Part,
    cell_ranges,
    cells,
    describe_cells,
    intersect,
    join_parts,
    parse_part,
    part_of,
    part_of_cells,
    subtract,
    whole,
)

LAYERS = 12
windows = st.tuples(st.integers(0, LAYERS + 1), st.integers(1, LAYERS + 2)).filter(lambda window: window[0] < window[1])


@given(windows)
def test_a_window_of_cells_is_a_part_of_just_those_cells(window: tuple[int, int]) -> None:
    part = part_of_cells(*window, LAYERS)
    assert cells(part, LAYERS) == list(range(*window))
    assert cell_ranges(part, LAYERS) == [window]
    assert parse_part(str(part), LAYERS) == part


@given(windows, windows)
def test_covering_is_containing_cells(outer: tuple[int, int], inner: tuple[int, int]) -> None:
    big, small = part_of_cells(*outer, LAYERS), part_of_cells(*inner, LAYERS)
    assert big.covers(small) == (set(cells(small, LAYERS)) <= set(cells(big, LAYERS)))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("f", whole(LAYERS)),
        ("b", Part(True)),
        ("e", Part(end=True)),
        ("b 0-5", Part(True, ((0, 5),))),
        ("7-12", Part(False, ((7, 12),))),
        ("10-12 e", Part(False, ((10, 12),), True)),
        ("0-3 6-9", Part(False, ((0, 3), (6, 9)))),
        ("0-3 3-6", Part(False, ((0, 6),))),
    ],
)
def test_specs_read_as_documented(spec: str, expected: Part) -> None:
    assert parse_part(spec, LAYERS) == expected


@pytest.mark.parametrize(
    "spec", ["", "x", "5", "5-5", "6-5", "0-13", "40-60", "e b", "3-6 0-2", "0-4 2-6", "b b", "-1-3"]
)
def test_bad_specs_are_refused_with_an_example(spec: str) -> None:
    with pytest.raises(RequestError, match='"'):
        parse_part(spec, LAYERS)


def test_a_spec_beyond_the_model_names_value_limit_and_example() -> None:
    with pytest.raises(RequestError, match=r'"40-60" exceeds this model\'s 32 layers.*"30-32 e"'):
        parse_part("40-60", 32)


def test_cells_in_words() -> None:
    assert describe_cells([0, 4, 5, 6, 9, 13], LAYERS) == "begin, layers 3-6, layer 8, end"


@given(st.sets(st.integers(0, LAYERS + 1)), st.sets(st.integers(0, LAYERS + 1)))
def test_parts_add_and_subtract_as_their_cells_do(left: set[int], right: set[int]) -> None:
    one, other = part_of(left, LAYERS), part_of(right, LAYERS)
    assert set(cells(one, LAYERS)) == left
    assert set(cells(join_parts([one, other], LAYERS), LAYERS)) == left | right
    assert set(cells(subtract(one, other, LAYERS), LAYERS)) == left - right
    assert set(cells(intersect(one, other, LAYERS), LAYERS)) == left & right

"""Part arithmetic as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import RequestError
from swarm.parts import NOTHING, Part, join_parts, parse_part, part_of, part_of_cells, whole

LAYERS = 12
windows = st.tuples(st.integers(0, LAYERS + 1), st.integers(1, LAYERS + 2)).filter(lambda window: window[0] < window[1])


@given(windows)
def test_a_window_of_cells_is_a_part_of_just_those_cells(window: tuple[int, int]) -> None:
    part = part_of_cells(*window, LAYERS)
    assert part.cells == list(range(*window))
    assert part.cell_ranges == [window]
    assert parse_part(str(part), LAYERS) == part


@given(windows, windows)
def test_covering_is_containing_cells(outer: tuple[int, int], inner: tuple[int, int]) -> None:
    big, small = part_of_cells(*outer, LAYERS), part_of_cells(*inner, LAYERS)
    assert big.covers(small) == (set(small.cells) <= set(big.cells))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("f", whole(LAYERS)),
        ("b", Part(LAYERS, True)),
        ("e", Part(LAYERS, end=True)),
        ("b 0-5", Part(LAYERS, True, ((0, 5),))),
        ("7-12", Part(LAYERS, False, ((7, 12),))),
        ("10-12 e", Part(LAYERS, False, ((10, 12),), True)),
        ("0-3 6-9", Part(LAYERS, False, ((0, 3), (6, 9)))),
        ("0-3 3-6", Part(LAYERS, False, ((0, 6),))),
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
    assert part_of([0, 4, 5, 6, 9, 13], LAYERS).describe() == "begin, layers 3-6, layer 8, end"


@given(st.sets(st.integers(0, LAYERS + 1)), st.sets(st.integers(0, LAYERS + 1)))
def test_parts_add_and_subtract_as_their_cells_do(left: set[int], right: set[int]) -> None:
    one, other = part_of(left, LAYERS), part_of(right, LAYERS)
    assert set(one.cells) == left
    assert set((one | other).cells) == left | right
    assert set((one - other).cells) == left - right
    assert set((one & other).cells) == left & right


def test_parts_of_different_models_do_not_mix() -> None:
    with pytest.raises(ValueError, match="models of 12 and 13 layers"):
        whole(12) | parse_part("b 0-3", 13)
    assert whole(12) != Part(13, True, ((0, 12),), True)


def test_nothing_is_a_part_of_every_model() -> None:
    part = parse_part("3-5 e", LAYERS)
    assert part | NOTHING == NOTHING | part == part - NOTHING == part
    assert part & NOTHING == NOTHING - part == part - part == NOTHING
    assert join_parts([]) == NOTHING


def test_a_part_beyond_its_model_is_refused() -> None:
    with pytest.raises(RequestError, match="exceeds this model's 12 layers"):
        Part(12, ranges=((11, 13),))

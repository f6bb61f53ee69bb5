"""Which layer is read next: in the order in which they are needed, and at once what is asked for out of order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from swarm.decoder.ring import Ring

Found = TypeVar("Found")


def read_all(ring: Ring) -> list[int]:
    """Whatever may be read now is; the numbers."""
    numbers: list[int] = []
    while (order := ring.next_read()) is not None:
        ring.have_read(order[0], 1)
        numbers.append(order[1])
    return numbers


def use(ring: Ring, number: int) -> None:
    place = ring.take(number)
    assert place is not None
    ring.free(place)


def test_as_many_are_read_ahead_as_there_are_buffers_and_the_last_is_followed_by_the_first() -> None:
    ring = Ring([3, 5, 9], 2)
    assert read_all(ring) == [3, 5]
    use(ring, 3)
    assert read_all(ring) == [9]
    use(ring, 5)
    assert read_all(ring) == [3]
    use(ring, 9)
    assert read_all(ring) == [5]


def test_a_layer_that_is_being_read_or_used_is_not_overwritten() -> None:
    ring = Ring([0, 1, 2], 2)
    assert ring.next_read() == (0, 0)
    assert ring.take(0) == 0
    assert not ring.has(0, 0)
    assert ring.next_read() == (1, 1)
    assert ring.next_read() is None
    ring.have_read(0, 1)
    assert ring.has(0, 0)
    assert ring.next_read() is None
    ring.have_read(1, 1)
    assert ring.next_read() is None
    ring.free(0)
    assert ring.next_read() == (0, 2)


def test_the_next_layer_is_read_over_what_has_been_used_of_one() -> None:
    ring = Ring([4, 6], 1, sections=3)
    assert ring.next_read() == (0, 4)
    ring.have_read(0, 1)
    assert ring.take(4) == 0
    assert [ring.has(0, section) for section in range(3)] == [True, False, False]
    ring.use_up(0, 0)
    assert ring.next_read() is None  # its rest is still to come
    ring.have_read(0, 3)
    assert ring.next_read() == (0, 6)
    assert ring.may_write(0, 1)
    assert not ring.may_write(0, 2)
    assert ring.take(6) is None  # while the other is lent
    ring.use_up(0, 1)
    assert ring.may_write(0, 2)
    ring.have_read(0, 1)
    ring.free(0)
    assert ring.may_write(0, 3)
    assert ring.take(6) == 0
    assert [ring.has(0, section) for section in range(3)] == [True, False, False]


def test_a_layer_that_was_given_back_before_it_came_still_comes() -> None:
    ring = Ring([0, 1, 2], 1, sections=2)
    assert ring.next_read() == (0, 0)
    assert ring.take(0) == 0
    ring.free(0)
    assert ring.next_read() is None
    ring.have_read(0, 2)
    assert ring.take(0) == 0
    assert ring.has(0, 1)


def test_who_asks_out_of_order_gets_what_was_asked_for_next() -> None:
    ring = Ring([0, 1, 2, 3], 2)
    assert read_all(ring) == [0, 1]
    assert ring.take(3) is None
    assert read_all(ring) == [3, 0]
    use(ring, 3)
    use(ring, 0)
    assert read_all(ring) == [1, 2]


def test_with_a_buffer_for_each_nothing_is_read_twice() -> None:
    ring = Ring([0, 1], 3)
    assert read_all(ring) == [0, 1]
    for number in (0, 1, 0, 1):
        use(ring, number)
        assert read_all(ring) == []


@pytest.mark.parametrize("seed", range(100))
def test_whatever_is_asked_for_comes_and_is_not_overwritten(seed: int) -> None:
    """Layers in any order, sections that come at any time and are used in turn, users who give up in the middle."""
    rng = random.Random(seed)
    numbers, sections = sorted(rng.sample(range(40), rng.randint(1, 8))), rng.randint(1, 4)
    buffers = rng.randint(1, 4)
    ring = Ring(numbers, buffers, sections)
    holds = [[-1] * sections for _ in range(buffers)]
    reader = read_at_any_time(ring, holds, sections)
    for _ in range(100):
        wanted = rng.choice(numbers)
        place = wait_for(lambda wanted=wanted: ring.take(wanted), reader, rng)
        for section in range(rng.choice([sections, sections, rng.randint(0, sections)])):
            wait_for(lambda place=place, section=section: ring.has(place, section) or None, reader, rng)
            for later in range(section, sections):
                assert not ring.has(place, later) or holds[place][later] == wanted
            ring.use_up(place, section)
        ring.free(place)


def read_at_any_time(ring: Ring, holds: list[list[int]], sections: int) -> Iterator[None]:
    """A step of whoever reads, each time."""
    while True:
        order = ring.next_read()
        if order is None:
            yield
            continue
        place, number = order
        for section in range(sections):
            while not ring.may_write(place, section + 1):
                yield
            holds[place][section] = number
            ring.have_read(place, section + 1)
            yield


def wait_for(find: Callable[[], Found | None], reader: Iterator[None], rng: random.Random) -> Found:
    for _ in range(200):
        if (found := find()) is not None:
            return found
        while rng.random() < 0.7:
            next(reader)
    pytest.fail("it never came")

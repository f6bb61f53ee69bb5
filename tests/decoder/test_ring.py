"""Which layer is read next: in the order in which they are needed, and at once what is asked for out of order."""

from __future__ import annotations

import random

import pytest

from swarm.decoder.ring import Ring


def read_all(ring: Ring) -> list[int]:
    """Whatever may be read now is; the numbers."""
    numbers: list[int] = []
    while (order := ring.next_read()) is not None:
        ring.have_read(order[0])
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
    assert ring.take(0) is None
    assert ring.next_read() == (1, 1)
    assert ring.next_read() is None
    ring.have_read(0)
    assert ring.take(0) == 0
    assert ring.next_read() is None
    ring.have_read(1)
    assert ring.next_read() is None
    ring.free(0)
    assert ring.next_read() == (0, 2)


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


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_asked_for_comes(seed: int) -> None:
    """Layers in any order, reads that end at any time: nothing waits for ever, and what is lent is what was asked for."""
    rng = random.Random(seed)
    numbers = sorted(rng.sample(range(40), rng.randint(1, 8)))
    ring = Ring(numbers, rng.randint(1, 4))
    reading: list[tuple[int, int]] = []
    holds: dict[int, int] = {}
    for _ in range(200):
        wanted = rng.choice(numbers)
        for _ in range(50):
            order = ring.next_read() if rng.random() < 0.7 else None
            if order is not None:
                reading.append(order)
            if reading and rng.random() < 0.7:
                place, number = reading.pop(0)
                holds[place] = number
                ring.have_read(place)
            lent = ring.take(wanted)
            if lent is not None:
                break
        else:
            pytest.fail(f"{wanted} never came")
        assert holds[lent] == wanted
        ring.free(lent)

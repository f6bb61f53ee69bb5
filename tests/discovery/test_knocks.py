"""Addresses to knock at: a flood of lies takes a few connections and no more, and the swarm is found behind it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.discovery.knocks import (
    ANSWER_SECONDS,
    DOWN_SECONDS,
    FRESH_SECONDS,
    HINTED_SECONDS,
    MOST_ADDRESSES,
    MOST_HINTED,
    MOST_HINTED_A_HOST,
    STALE_SECONDS,
    VOUCHED_SECONDS,
    Knock,
    Knocks,
)


class Door:
    """What is open after some knocks, and how many were at once."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.most = 0

    def follow(self, knocks: list[Knock]) -> set[str]:
        for knock in knocks:
            (self.open.discard if knock.is_over else self.open.add)(knock.address)
            self.most = max(self.most, len(self.open))
        return {knock.address for knock in knocks if not knock.is_over}


def test_an_address_is_knocked_at_once_however_often_it_is_named() -> None:
    knocks = Knocks()
    assert knocks.hint("a:1", 0.0) == [Knock("a:1")]
    assert knocks.hint("a:1", 1.0) == knocks.vouch("a:1", 1.0) == knocks.name("a:1", 1.0) == []


def test_what_does_not_answer_is_given_up_and_tried_again_later() -> None:
    knocks = Knocks()
    knocks.vouch("a:1", 0.0)
    assert knocks.advance(ANSWER_SECONDS + 0.1) == [Knock("a:1", is_over=True)]
    assert knocks.advance(ANSWER_SECONDS + 1) == []
    assert knocks.advance(ANSWER_SECONDS + 3) == [Knock("a:1")]


def test_what_the_user_names_is_never_given_up() -> None:
    knocks = Knocks()
    knocks.name("a:1", 0.0)
    assert knocks.failed("a:1", 3.0) == []
    assert knocks.advance(10 * FRESH_SECONDS) == [Knock("a:1")], "for a dial that failed for want of descriptors"
    knocks.forget("a:1", 10 * FRESH_SECONDS)  # who answers there is reached elsewhere, for now
    assert knocks.advance(10 * FRESH_SECONDS + HINTED_SECONDS + 1) == [Knock("a:1")]


def test_what_once_answered_is_tried_for_ever_and_rarely_after_an_hour() -> None:
    knocks = Knocks()
    knocks.hint("a:1", 0.0)
    knocks.answered("a:1", 0.1)
    knocks.broke("a:1", 100.0)
    tried = [now for now in range(100, 100_000) if Knock("a:1") in knocks.advance(now)]
    assert tried[-1] > 99_000
    assert len(tried) < 3600 / VOUCHED_SECONDS + 100_000 / STALE_SECONDS


def test_a_connection_that_broke_is_left_to_mend_for_a_while() -> None:
    knocks = Knocks()
    knocks.hint("a:1", 0.0)
    knocks.answered("a:1", 0.1)
    knocks.broke("a:1", 100.0)
    assert knocks.advance(100.0 + DOWN_SECONDS - 1) == []
    assert knocks.advance(100.0 + DOWN_SECONDS + 1) == [Knock("a:1", is_over=True)]
    tried = [now for now in range(131, 131 + 300) if Knock("a:1") in knocks.advance(now)]
    assert len(tried) > 10, "a swarm that was parted for minutes finds together again"


def test_where_others_tell_who_is_where_a_member_that_is_gone_is_knocked_at_no_more() -> None:
    knocks = Knocks()
    for address in ("gone:1", "there:1"):
        knocks.answered(address, 0.0)
    knocks.name("named:1", 0.0)
    knocks.broke("gone:1", 1.0)
    knocks.leave_to_others("gone:1")  # it is given a while to come back by itself
    assert knocks.advance(1.0 + DOWN_SECONDS + 0.1) == [Knock("gone:1", is_over=True), Knock("named:1")]
    for address in ("gone:1", "there:1", "named:1"):
        knocks.leave_to_others(address)
    later = [knock for at in range(40, 4000, 10) for knock in knocks.advance(float(at))]
    assert {knock.address for knock in later} == {"named:1"}


def test_a_flood_of_hints_takes_few_connections_and_little_memory() -> None:
    knocks, door = Knocks(), Door()
    for number in range(5000):
        door.follow(knocks.hint(f"10.0.{number // 250}.{number % 250}:7700", number / 100))
    assert door.most == MOST_HINTED
    assert len(knocks._known) <= MOST_ADDRESSES
    for now in range(50, 4000):
        door.follow(knocks.advance(now))
    assert not door.open
    assert not knocks._known


def test_one_host_cannot_take_all_of_them() -> None:
    knocks, door = Knocks(), Door()
    for port in range(2000):
        door.follow(knocks.hint(f"10.0.0.66:{port}", 0.0))
    assert door.most == MOST_HINTED_A_HOST
    assert door.follow(knocks.hint("10.0.0.1:7700", 0.0)) == {"10.0.0.1:7700"}


def test_a_members_word_counts_beside_any_flood() -> None:
    knocks, door = Knocks(), Door()
    for number in range(2000):
        door.follow(knocks.hint(f"10.0.{number // 250}.{number % 250}:7700", 0.0))
    assert door.follow(knocks.vouch("10.1.0.1:7700", 0.0)) == {"10.1.0.1:7700"}
    assert door.follow(knocks.vouch("10.0.7.249:7700", 0.0)) == {"10.0.7.249:7700"}, "hinted before, and waiting"


def test_every_hint_of_a_flood_has_its_turn() -> None:
    knocks, door = Knocks(), Door()
    addresses = {f"10.0.{number // 250}.{number % 250}:7700" for number in range(500)}
    tried: set[str] = set()
    for address in sorted(addresses):
        tried |= door.follow(knocks.hint(address, 0.0))
    for second in range(60):
        now = float(second)
        tried |= door.follow(knocks.advance(now))
        for address in sorted(door.open):  # refused: said three seconds after each knock at the latest
            if second % 3 == 2:
                tried |= door.follow(knocks.failed(address, now))
    assert tried == addresses


VERBS = ["name", "vouch", "hint", "failed", "answered", "broke", "forget", "advance"]


@given(st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 60), st.floats(0, 20))))
def test_whatever_happens_no_door_is_opened_or_closed_twice(steps: list[tuple[str, int, float]]) -> None:
    knocks, now = Knocks(), 0.0
    is_open: set[str] = set()
    named: set[str] = set()
    for verb, number, seconds in steps:
        now += seconds
        address = f"10.0.0.{number // 3}:{number % 3}"
        if verb in ("answered", "broke", "forget") and address not in is_open:
            continue
        if verb == "name":
            named.add(address)
        done = knocks.advance(now) if verb == "advance" else getattr(knocks, verb)(address, now)
        if verb == "forget":
            is_open.discard(address)
        for knock in done or []:
            assert (knock.address in is_open) == knock.is_over or knock.address in named
            (is_open.discard if knock.is_over else is_open.add)(knock.address)

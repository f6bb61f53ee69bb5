"""The peer table: who lives, who is old news."""

from __future__ import annotations

from swarm.discovery.peers import FORGET_SECONDS, PeerTable
from tests.beats import make_beat


def test_a_peer_is_suspect_then_dead_without_beats() -> None:
    table = PeerTable()
    table.apply(make_beat(), 0.0)
    assert [table.verdict("a" * 16, at) for at in (0.5, 2.5, 4.0)] == ["alive", "suspect", "dead"]
    assert table.live(3.0)
    assert not table.live(4.0)
    table.apply(make_beat(sequence=2), 10.0)
    assert table.verdict("a" * 16, 10.1) == "alive"


def test_old_beats_and_old_incarnations_are_not_believed() -> None:
    table = PeerTable()
    assert table.apply(make_beat(sequence=5, incarnation=2), 0.0)
    assert not table.apply(make_beat(sequence=5, incarnation=2), 1.0)
    assert not table.apply(make_beat(sequence=4, incarnation=2), 1.0)
    assert not table.apply(make_beat(sequence=9, incarnation=1), 1.0)
    assert table.apply(make_beat(sequence=1, incarnation=3), 1.0)


def test_a_goodbye_ends_an_incarnation_and_not_the_next() -> None:
    table = PeerTable()
    table.apply(make_beat(incarnation=1), 0.0)
    assert table.say_goodbye("a" * 16, 1, 1.0)
    assert not table.apply(make_beat(incarnation=1, sequence=9), 1.5)
    assert not table.live(1.5)
    assert table.apply(make_beat(incarnation=2), 2.0)


def test_a_tick_that_stands_still_means_hung_unless_layers_are_slow() -> None:
    table = PeerTable()
    for second in range(6):
        table.apply(make_beat("a", sequence=second + 1, tick=7), float(second))
        table.apply(make_beat("b", sequence=second + 1, tick=second), float(second))
        table.apply(make_beat("c", sequence=second + 1, tick=7, layer_seconds=3.0), float(second))
    assert [table.verdict(node * 16, 5.1) for node in "abc"] == ["hung", "alive", "alive"]
    assert [one.name for one in table.live(5.1)] == ["b", "c"]


def test_a_broken_connection_counts_as_death_until_the_next_make_beat() -> None:
    table = PeerTable()
    table.apply(make_beat(), 0.0)
    table.mark_lost("a" * 16, 0.5)
    assert table.verdict("a" * 16, 0.6) == "dead"
    assert table.changed == 0.5
    table.apply(make_beat(sequence=2), 0.7)
    assert table.verdict("a" * 16, 0.8) == "alive"


def test_last_words_that_others_pass_on_bring_nobody_back() -> None:
    table = PeerTable()
    table.apply(make_beat(sequence=1), 0.0)
    table.mark_lost("a" * 16, 1.0)
    assert not table.hear_of(make_beat(sequence=2), 1.1)
    assert table.live(1.1) == []
    assert table.hear_of(make_beat(sequence=3, incarnation=2), 1.2), "a new process is no last word"
    table.mark_lost("a" * 16, 2.0)
    assert table.hear_of(make_beat(sequence=9, incarnation=2), 6.1), "others have heard it for longer than that"
    table.mark_lost("a" * 16, 7.0)
    table.mark_found("a" * 16)
    assert table.hear_of(make_beat(sequence=10, incarnation=2), 7.1)


def test_a_goodbye_is_forgotten_when_no_late_word_can_follow_it() -> None:
    table = PeerTable()
    table.apply(make_beat(incarnation=9), 0.0)
    table.say_goodbye("a" * 16, 9, 1.0)
    assert not table.apply(make_beat(sequence=2, incarnation=9), 1.1)
    for number in range(1000):
        table.say_goodbye(f"{number:016x}", 1, 2.0)
    table.forget_dead(3.0 + FORGET_SECONDS)
    assert not table._gone
    assert table.apply(make_beat(incarnation=5), 3.0 + FORGET_SECONDS)

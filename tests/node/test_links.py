"""Links are timed with nothing and with a load; what is learnt bounds the frames."""

from __future__ import annotations

import pytest

from swarm.messages.steps import Probe, ProbeAck
from swarm.node.effects import LimitFrames, SendPeer
from swarm.node.peers.links import FRAME_SECONDS, PROBE_AGAIN_SECONDS, PROBE_BYTES, LinkMeter

NODE = "a" * 16
ME = "b" * 16
ROUND_TRIP = 0.004


def measure(meter: LinkMeter, number: int, rate: float, now: float) -> LimitFrames:
    """Answer a pair of probes, the first of number `number`, over a link of `rate` bytes a second."""
    (loaded,) = meter.take_ack(NODE, ProbeAck(number=number), now + ROUND_TRIP)
    assert isinstance(loaded, SendPeer)
    assert loaded.message == Probe(number=number + 1)
    assert loaded.tensor is not None
    assert len(loaded.tensor.data) == PROBE_BYTES
    arrived = now + 2 * ROUND_TRIP + PROBE_BYTES / rate
    (limit,) = meter.take_ack(NODE, ProbeAck(number=number + 1), arrived)
    assert isinstance(limit, LimitFrames)
    return limit


def test_frames_take_fifty_milliseconds_of_the_link() -> None:
    meter = LinkMeter(ME)
    assert meter.up(NODE, 10.0) == [SendPeer(NODE, "data", Probe(number=0))]
    assert meter.rates == {}
    assert measure(meter, 0, 2e6, 10.0).most == pytest.approx(FRAME_SECONDS * 2e6, rel=0.01)
    assert meter.rates[NODE] == pytest.approx(2e6, rel=0.01)


def test_a_measurement_that_met_other_traffic_is_outdone_by_the_next() -> None:
    meter = LinkMeter(ME)
    meter.up(NODE, 0.0)
    measure(meter, 0, 1e5, 0.0)
    assert meter.advance(1.0) == []
    later = PROBE_AGAIN_SECONDS + 5
    assert meter.advance(later) == [SendPeer(NODE, "data", Probe(number=2))]
    measure(meter, 2, 1e7, later)
    assert meter.rates[NODE] == pytest.approx(1e7, rel=0.01)
    assert meter.advance(2 * later) == [SendPeer(NODE, "data", Probe(number=4))]
    assert measure(meter, 4, 1e5, 2 * later).most == pytest.approx(FRAME_SECONDS * 1e7, rel=0.01)


def test_a_lost_probe_is_sent_again_and_old_answers_mean_nothing() -> None:
    meter = LinkMeter(ME)
    meter.up(NODE, 0.0)
    assert meter.advance(PROBE_AGAIN_SECONDS + 1) == [SendPeer(NODE, "data", Probe(number=2))]
    assert meter.take_ack(NODE, ProbeAck(number=0), PROBE_AGAIN_SECONDS + 1.1) == []
    meter.down(NODE)
    assert meter.take_ack(NODE, ProbeAck(number=2), PROBE_AGAIN_SECONDS + 1.2) == []
    assert meter.advance(1e6) == []


@pytest.mark.parametrize("me", ["0" * 16, "f" * 16])
def test_two_loads_that_meet_are_measured_again_one_after_the_other(me: str) -> None:
    """On a link that is slow one way, an answer that waits behind a load would say that both ways are."""
    meter = LinkMeter(me)
    meter.up(NODE, 0.0)
    meter.take_ack(NODE, ProbeAck(number=0), ROUND_TRIP)
    meter.meet(NODE, 1)
    effects = meter.take_ack(NODE, ProbeAck(number=1), 0.1)
    again = [SendPeer(NODE, "data", Probe(number=2))]
    assert meter.rates == {}
    assert effects == (again if me < NODE else [])
    if not effects:
        assert meter.advance(1.1) == again
    meter.meet(NODE, 3)  # the other's second one, with none of ours on the way
    measure(meter, 2, 1e7, 1.1 if not effects else 0.1)
    assert meter.rates[NODE] == pytest.approx(1e7, rel=0.01)


def test_a_step_tells_how_long_a_small_message_takes() -> None:
    meter = LinkMeter("a" * 16)
    node = "b" * 16
    assert meter.without_load(node, 0.003, 100) == 0.003
    assert meter.without_load(node, 0.003, 1 << 20) is None, "how fast the link is has not been measured"
    assert meter.without_load(node, 3.0, 100) is None, "sent twice"
    meter.up(node, 0.0)
    meter._links[node].latest = 10e6
    assert meter.without_load(node, 0.103, 1_000_000) == pytest.approx(0.003)
    assert meter.without_load(node, 0.05, 1_000_000) is None, "faster than the link is"

"""How fast data travels to each node: a round trip with nothing, then one with a load, again from time to time.

Pure: messages and times go in, effects come out. A frame should take no longer than FRAME_SECONDS, so that heartbeats and
what comes behind it are not held up: an 18 MB frame on a 2 MB/s link was cut by heartbeats and lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.messages.steps import Probe, ProbeAck
from swarm.messages.tensors import WireTensor
from swarm.node.effects import Effect, LimitFrames, SendPeer

PROBE_BYTES = 64 << 10
PROBE_AGAIN_SECONDS = 30.0
FRAME_SECONDS = 0.05
SMALL_BYTES = 16 << 10  # which take no time to speak of, however slow the link
MOST_RTT_SECONDS = 0.25  # a message that was longer on the way was lost and sent again

_LOAD = WireTensor("uint8", (PROBE_BYTES,), bytes(PROBE_BYTES))


@dataclass(slots=True)
class _Link:
    sent: float = 0.0
    number: int = 0  # of the probe that is on the way: even ones are empty, odd ones carry the load
    empty_seconds: float = 0.0
    earlier: float = 0.0
    latest: float = 0.0  # bytes a second; 0: not measured
    has_met: bool = False  # the other's load came against the one on the way: the answer waited behind it

    @property
    def rate(self) -> float:
        """The faster of the last two: one that met other traffic says too little."""
        return max(self.earlier, self.latest)


class LinkMeter:
    """The data links of one node, `me`."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._links: dict[str, _Link] = {}

    @property
    def rates(self) -> dict[str, int]:
        """Bytes a second to each node measured."""
        return {node: int(link.rate) for node, link in sorted(self._links.items()) if link.rate}

    def without_load(self, node: str, seconds: float, size: int) -> float | None:
        """What a message of `size` bytes and its answer would have taken had it been small; None if that is not known."""
        link = self._links.get(node)
        load = size / link.rate if link is not None and link.rate else 0.0
        if not load and size > SMALL_BYTES:
            return None
        return seconds - load if load < seconds < MOST_RTT_SECONDS + load else None

    def up(self, node: str, now: float) -> list[Effect]:
        """A data connection is there: measure it."""
        link = self._links[node] = _Link()
        return [_probe(node, link, 0, now)]

    def down(self, node: str) -> None:
        self._links.pop(node, None)

    def advance(self, now: float) -> list[Effect]:
        """Measure again what was measured a while ago."""
        return [
            _probe(node, link, link.number + 2 - link.number % 2, now)
            for node, link in self._links.items()
            if now - link.sent > PROBE_AGAIN_SECONDS
        ]

    def meet(self, node: str, number: int) -> None:
        """Probe `number` of `node`'s own has arrived here."""
        link = self._links.get(node)
        if link is not None and number % 2 and link.number % 2:
            link.has_met = True

    def take_ack(self, node: str, ack: ProbeAck, now: float) -> list[Effect]:
        """A probe has come back: send the loaded one, or learn from it."""
        link = self._links.get(node)
        if link is None or ack.number != link.number:
            return []
        seconds = now - link.sent
        if link.number % 2 == 0:
            link.empty_seconds = seconds
            return [_probe(node, link, link.number + 1, now)]
        if link.has_met:
            if self._me < node:
                return [_probe(node, link, link.number + 1, now)]
            link.sent = now - PROBE_AGAIN_SECONDS  # at the next beat: not beside the other's again
            return []
        link.earlier = link.latest
        link.latest = PROBE_BYTES / max(seconds - link.empty_seconds, 1e-6)
        return [LimitFrames(node, int(FRAME_SECONDS * link.rate))]


def _probe(node: str, link: _Link, number: int, now: float) -> Effect:
    """Send probe `number`: its answer is the one that counts from now on."""
    link.number, link.sent, link.has_met = number, now, False
    return SendPeer(node, "data", Probe(number=number), _LOAD if number % 2 else None)

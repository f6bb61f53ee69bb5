"""Where a token's time goes on its way round a chain, from what each node noted of it by its own clock. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.messages.timings import StepTiming
from swarm.plan.routes import Hop

MIDDLE_SHARE = 3  # the middle third of the tokens stands for the median one: a single one's parts are noisy


@dataclass(frozen=True, slots=True)
class Reading:
    """What a node said of a session's steps. sent, received: by the asker's clock; clock: the node's own in between."""

    sent: float
    received: float
    clock: float
    steps: Sequence[StepTiming]

    @property
    def round_trip(self) -> float:
        return self.received - self.sent

    @property
    def offset(self) -> float:
        """How far the node's clock is ahead of the asker's, wrong by half a round trip at most."""
        return self.clock - (self.sent + self.received) / 2


@dataclass(frozen=True, slots=True)
class HopTimes:
    """What a token spends at one hop, in seconds; sent: from there to the next hop, after the last one to the first."""

    hop: Hop
    queued: float
    waited: float
    computed: float
    sent: float

    @property
    def seconds(self) -> float:
        return self.queued + self.waited + self.computed + self.sent


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The median token of an answer, hop by hop. tokens: that it was found among."""

    hops: tuple[HopTimes, ...]
    tokens: int

    @property
    def seconds(self) -> float:
        """From a token's arrival at the first hop to the next one's."""
        return sum(times.seconds for times in self.hops)


def find_waterfall(route: Sequence[Hop], readings: Mapping[str, Sequence[Reading]]) -> Waterfall | None:
    """readings: by node, the newest last. None while no token is known to have gone all the way round."""
    if any(not readings.get(hop.node) for hop in route):
        return None
    # The exchange that took least says best how a clock stands to ours.
    offsets = {node: min(said, key=lambda one: one.round_trip).offset for node, said in readings.items() if said}
    visits = {
        (step.stage, step.position): step
        for node, said in readings.items()
        for step in (said[-1].steps if said else ())
        if step.stage < len(route) and route[step.stage].node == node
    }
    journeys: list[list[HopTimes]] = []
    for _, position in sorted(key for key in visits if key[0] == 0):
        keys = [*((stage, position) for stage in range(len(route))), (0, position + 1)]
        if all(key in visits for key in keys):
            journeys.append(_follow(route, [visits[key] for key in keys], offsets))
    if not journeys:
        return None
    journeys.sort(key=lambda journey: sum(times.seconds for times in journey))
    margin = (len(journeys) - 1) // MIDDLE_SHARE
    middle = journeys[margin : len(journeys) - margin]
    return Waterfall(tuple(_average(column) for column in zip(*middle, strict=True)), len(journeys))


def _follow(route: Sequence[Hop], steps: Sequence[StepTiming], offsets: Mapping[str, float]) -> list[HopTimes]:
    """One token's way round. steps: at each hop, and the next token's at the first one."""
    came = [step.arrived - offsets[route[step.stage].node] for step in steps]
    left = [when + step.queued + step.waited + step.computed for when, step in zip(came, steps, strict=True)]
    crossings = _mend([after - before for before, after in zip(left, came[1:], strict=False)])
    return [
        HopTimes(hop, step.queued, step.waited, step.computed, sent)
        for hop, step, sent in zip(route, steps, crossings, strict=False)
    ]


def _mend(crossings: Sequence[float]) -> list[float]:
    """Crossings none of which takes less than nothing; their sum, in which clocks cancel out, stays."""
    total = max(0.0, sum(crossings))
    positive = sum(max(0.0, one) for one in crossings)
    return [max(0.0, one) * total / positive if positive else 0.0 for one in crossings]


def _average(column: Sequence[HopTimes]) -> HopTimes:
    count = len(column)
    return HopTimes(
        column[0].hop,
        sum(times.queued for times in column) / count,
        sum(times.waited for times in column) / count,
        sum(times.computed for times in column) / count,
        sum(times.sent for times in column) / count,
    )

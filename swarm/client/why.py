"""Asks the nodes of a chain why an answer's tokens took as long as they did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from swarm.client.culprit import Culprit, Remedy, describe_culprit, find_culprit, find_remedy
from swarm.client.news import RouteTaken
from swarm.client.swarm import SwarmClient
from swarm.client.waterfall import Reading, Waterfall, find_waterfall
from swarm.messages.any import AnyMessage
from swarm.messages.files import ModelCard
from swarm.messages.timings import MOST_TIMINGS, AskTimings, Timings
from swarm.plan.view import read_planned

ASKED_SECONDS = 1.0  # for one answer: a node that is gone tells nothing
EXCHANGES = 5  # with each node: the quickest says best how its clock stands to ours, and the last brings the steps


@dataclass(frozen=True, slots=True)
class Why:
    """Where the time of an answer's median token goes. measured: between two tokens here, in seconds; 0: not known."""

    waterfall: Waterfall
    culprit: Culprit
    remedy: Remedy | None
    measured: float
    said: str

    def describe(self, names: dict[str, str]) -> dict[str, object]:
        """For whoever reads JSON. names: of nodes."""
        return {
            "seconds_a_token": round(self.waterfall.seconds, 6),
            "measured_seconds_a_token": round(self.measured, 6),
            "tokens": self.waterfall.tokens,
            "hops": [
                {
                    "node": times.hop.node,
                    "name": names.get(times.hop.node, times.hop.node),
                    "part": str(times.hop.part),
                    "queue_seconds": round(times.queued, 6),
                    "turn_seconds": round(times.waited, 6),
                    "compute_seconds": round(times.computed, 6),
                    "wire_seconds": round(times.sent, 6),
                }
                for times in self.waterfall.hops
            ],
            "culprit": {"kind": self.culprit.kind, "node": self.culprit.node, "target": self.culprit.target},
            "said": self.said,
        }


def ask_why(swarm: SwarmClient, card: ModelCard, route: RouteTaken, arrivals: Sequence[float]) -> Why | None:
    """Before the answer's session is used again. arrivals: when its tokens came, in seconds; None if too few have."""
    readings = {node: _read(swarm, node, route.session) for node in dict.fromkeys(hop.node for hop in route.route)}
    waterfall = find_waterfall(route.route, readings)
    if waterfall is None:
        return None
    beats = swarm.beats
    culprit = find_culprit(waterfall)
    remedy = find_remedy(waterfall, culprit, read_planned(beats, card.model, card.layers), card.layers)
    gaps = [after - before for before, after in pairwise(arrivals[-MOST_TIMINGS:])]
    said = describe_culprit(waterfall, culprit, remedy, names_of(swarm))
    return Why(waterfall, culprit, remedy, median(gaps) if gaps else 0.0, said)


def names_of(swarm: SwarmClient) -> dict[str, str]:
    """Node → how it is called."""
    return {beat.node: beat.name for beat in swarm.beats}


def _read(swarm: SwarmClient, node: str, session: str) -> list[Reading]:
    """What a node says, several times."""
    readings: list[Reading] = []
    for number in range(EXCHANGES):

        def matches(message: AnyMessage, number: int = number) -> bool:
            return isinstance(message, Timings) and (message.session, message.number) == (session, number)

        sent = time.monotonic()
        asked = AskTimings(session=session, number=number, wants_steps=number == EXCHANGES - 1)
        told = swarm.ask(node, asked, matches, ASKED_SECONDS)
        if not isinstance(told, Timings):
            break
        readings.append(Reading(sent, time.monotonic(), told.clock, told.steps))
    return readings

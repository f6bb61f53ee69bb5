"""A client of a simulated swarm: asks, and every token that it hears is checked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

from swarm.client.effects import Connect, Effect, Send
from swarm.client.generation import GenerationMachine
from swarm.client.news import Delivered, Failed, Finished, RouteTaken
from swarm.client.route_view import RouteView
from swarm.client.transcript import Turn
from swarm.errors import SwarmError
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.members import Beat
from swarm.messages.sampling import Sampling
from swarm.parts import Part
from swarm.testing.promises import check_scores, check_tokens

LOOK_SECONDS = 1.0  # between two looks at the peer table


class Carrier(Protocol):
    """Takes what a client has for nodes to them."""

    def carry_from_client(self, client: str, sent: Send) -> None: ...

    def connect_from_client(self, client: str, target: str, channel: Channel) -> None: ...


class Outside(Protocol):
    """What is around a client."""

    seed: int
    now: float

    @property
    def traffic(self) -> Carrier: ...

    def show_table(self, client: str) -> list[Beat]: ...


class SimulatedClient:
    """The machine of a real client, and what has come of its question."""

    def __init__(self, name: str, machine: GenerationMachine, outside: Outside) -> None:
        self.machine = machine
        self.expected: list[int] = []
        self.received: list[int] = []
        self.expected_scores: list[float] = []
        self.scores: list[float] = []
        self.times: list[float] = []  # when it asked, then when each token came
        self.variants: tuple[tuple[Part, tuple[str, ...]], ...] = ()  # as the answer tells
        self.finished = ""
        self.error: SwarmError | None = None
        self._name = name
        self._outside = outside
        self._beats: list[Beat] = []
        self._looked_at = float("-inf")

    @property
    def is_done(self) -> bool:
        return bool(self.finished or self.error)

    @property
    def longest_gap(self) -> float:
        """Seconds between two tokens."""
        return max(later - earlier for earlier, later in itertools.pairwise(self.times[1:]))

    def ask(self, prompt: Sequence[int], expected: Sequence[tuple[int, float]], given: int = 0) -> None:
        """Ask for as many tokens as are expected, and how likely each is. given: so many of them are not drawn."""
        self.expected, self.expected_scores = ([*column] for column in zip(*expected, strict=True))
        self.received, self.scores, self.times = [], [], [self._outside.now]
        self.finished, self.error = "", None
        self._look()
        turn = Turn(
            ids=list(prompt),
            max_tokens=len(expected),
            sampling=Sampling(),
            stop_ids=[],
            scores=0,
            given=self.expected[:given],
        )
        self._perform(self.machine.begin(turn, self._outside.now))

    def tick(self) -> None:
        if self._outside.now - self._looked_at >= LOOK_SECONDS:
            self._look()
        self._perform(self.machine.tick(self._outside.now))

    def _look(self) -> None:
        self._looked_at = self._outside.now
        self._beats = self._outside.show_table(self._name)
        self.machine.see(RouteView(self._beats))

    def hang_up(self) -> None:
        """It has heard enough."""
        self._perform(self.machine.cancel())

    def receive(self, node: str, message: AnyMessage) -> None:
        session = getattr(message, "session", "")
        self._perform(self.machine.receive(node, session, message, self._outside.now))

    def link_up(self, node: str, channel: Channel) -> None:
        self._perform(self.machine.link_up(node, channel, self._outside.now))

    def link_down(self, node: str, channel: Channel) -> None:
        if channel == "control":
            self._beats = [beat for beat in self._beats if beat.node != node]
            self.machine.see(RouteView(self._beats))
        self.machine.link_down(node, channel, self._outside.now)

    def link_refused(self, node: str, channel: Channel) -> None:
        self._perform(self.machine.link_refused(node, channel, self._outside.now))

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case RouteTaken():
                    self.variants = effect.variants
                case Send():
                    self._outside.traffic.carry_from_client(self._name, effect)
                case Connect(target, channel):
                    self._outside.traffic.connect_from_client(self._name, target, channel)
                case Delivered(ids, scores):
                    self.received += ids
                    self.scores += [one.log_probability for one in scores]
                    self.times += [self._outside.now] * len(ids)
                    check_tokens(self._outside.seed, self._name, self.received, self.expected)
                    check_scores(self._outside.seed, self._name, self.scores, self.expected_scores, len(self.received))
                case Finished(reason):
                    self.finished = reason
                case Failed(error):
                    self.error = error

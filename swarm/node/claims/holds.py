"""Who goes on serving what another node drops: promises given, and those that this node has obtained. Pure.

A promise ends by itself; who relies on one stops earlier than it ends.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from swarm.messages.members import AskHold, HoldAnswer, ReleaseHold
from swarm.node.effects import Effect, SendPeer
from swarm.parts import NOTHING, Part, join_parts, parse_part

HOLD_SECONDS = 30.0  # a hold ends by itself then
TRUST_SECONDS = 25.0  # and is no longer relied on then, counted from when it was asked for


@dataclass(frozen=True, slots=True)
class _Promise:
    """Cells that this node goes on serving for another."""

    model: str  # in whatever variant
    part: Part
    until: float


class GivenHolds:
    """What this node has promised to go on serving, by who asked for it."""

    def __init__(self) -> None:
        self._promises: dict[str, _Promise] = {}

    def advance(self, now: float) -> None:
        """Forget those that have ended."""
        self._promises = {node: one for node, one in self._promises.items() if one.until > now}

    def to(self, node: str, model: str) -> Part:
        """What a node has been promised of a model."""
        known = self._promises.get(node)
        return known.part if known is not None and known.model == model else NOTHING

    def cover(self, model: str, part: Part) -> bool:
        """Whether some of a part is promised: it may not be dropped yet."""
        return any(one.model == model and not (one.part & part).is_empty() for one in self._promises.values())

    def give(self, node: str, model: str, part: Part, now: float) -> None:
        """In place of what it was promised before."""
        self._promises[node] = _Promise(model, part, now + HOLD_SECONDS)

    def release(self, node: str) -> None:
        """A node has dropped what it wanted to."""
        self._promises.pop(node, None)


@dataclass(frozen=True, slots=True)
class _Hold:
    """What another node goes on serving for us, and when we asked for that."""

    part: Part
    asked_at: float


class ObtainedHolds:
    """What others go on serving of a model while this node moves."""

    def __init__(self) -> None:
        self._last_number = 0
        self._asked: dict[int, float] = {}  # request → when it was made
        self._holds: dict[str, _Hold] = {}  # by node

    @property
    def part(self) -> Part:
        """All that others have promised to serve."""
        return join_parts(hold.part for hold in self._holds.values())

    def ask(self, model: str, wanted: Mapping[str, Part], now: float) -> list[Effect]:
        """wanted: what each node is asked to go on serving."""
        effects: list[Effect] = []
        for node, part in wanted.items():
            self._last_number += 1
            self._asked[self._last_number] = now
            ask = AskHold(model=model, part=str(part), number=self._last_number)
            effects.append(SendPeer(node, "control", ask))
        return effects

    def take(self, node: str, answer: HoldAnswer, layers: int) -> None:
        """A node's answer; those to earlier moves mean nothing. Raises RequestError if it names no part of the model."""
        if answer.number not in self._asked:
            return
        asked_at = self._asked.pop(answer.number)
        part = parse_part(answer.part, layers) if answer.part else NOTHING
        known = self._holds.get(node)
        if known is None or known.asked_at <= asked_at:
            self._holds[node] = _Hold(part, asked_at)  # the latest answer stands for all that is promised

    def forget_lapsed(self, live: Collection[str], now: float) -> None:
        """Holds of nodes that are gone or leaving, and those that were asked for too long ago."""
        self._holds = {
            node: hold for node, hold in self._holds.items() if node in live and now - hold.asked_at <= TRUST_SECONDS
        }

    def release(self) -> list[Effect]:
        """They are no longer needed."""
        nodes, self._holds, self._asked = sorted(self._holds), {}, {}
        return [SendPeer(node, "control", ReleaseHold(number=self._last_number)) for node in nodes]

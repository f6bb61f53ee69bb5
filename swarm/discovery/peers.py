"""The peer table: what each node last said of itself, and whether it still lives.

Pure: beats and times go in, verdicts come out. Believes only beats; adverts never reach it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swarm.messages.members import Beat

BEAT_SECONDS = 1.0
SUSPECT_SECONDS = 2.2  # two beats missed
DEAD_SECONDS = 4.0
HUNG_SECONDS = 4.0
HUNG_LAYERS = 3.0  # a tick may stand this many times as long as the node says a layer takes
FORGET_SECONDS = 60.0

Verdict = Literal["alive", "suspect", "hung", "dead"]


@dataclass(slots=True)
class Peer:
    """A node as last heard."""

    beat: Beat
    heard: float
    tick_moved: float


class PeerTable:
    """Peers by node id."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._gone: dict[str, tuple[int, float]] = {}  # node → incarnation that said goodbye, and when
        self._lost: dict[str, tuple[int, float]] = {}  # node → incarnation whose connection broke, and when
        self.changed = 0.0  # when the set of live peers last changed

    def apply(self, beat: Beat, now: float) -> bool:
        """Take a beat; False if it is older than what is known (another incarnation, or reordered)."""
        known = self._peers.get(beat.node)
        if self._gone.get(beat.node, (-1, 0.0))[0] >= beat.incarnation:
            return False
        if known is not None:
            if (beat.incarnation, beat.sequence) <= (known.beat.incarnation, known.beat.sequence):
                return False
            same_tick = known.beat.incarnation == beat.incarnation and known.beat.tick == beat.tick
            moved = known.tick_moved if same_tick else now
            if self._verdict(known, now) == "dead":
                self.changed = moved = now  # it is back: its tick has yet to show that it moves
        else:
            moved = now
            self.changed = now
        self._peers[beat.node] = Peer(beat, now, moved)
        return True

    def hear_of(self, beat: Beat, now: float) -> bool:
        """Take a beat that another node has passed on.

        Just after a node's connection broke these are its last words, newer than what is known and no sign of life.
        """
        incarnation, since = self._lost.get(beat.node, (-1, 0.0))
        if beat.incarnation == incarnation and now - since < DEAD_SECONDS:
            return False
        return self.apply(beat, now)

    def say_goodbye(self, node: str, incarnation: int, now: float) -> bool:
        """A node leaves; True if it was known."""
        self._gone[node] = max(incarnation, self._gone.get(node, (-1, 0.0))[0]), now
        known = self._peers.get(node)
        if known is None or known.beat.incarnation > incarnation:
            return False
        del self._peers[node]
        self.changed = now
        return True

    def mark_lost(self, node: str, now: float) -> None:
        """The connection to a node broke: it counts as dead until its next beat."""
        known = self._peers.get(node)
        if known is not None:
            self._lost[node] = known.beat.incarnation, now
            if self._verdict(known, now) != "dead":
                known.heard = now - DEAD_SECONDS
                self.changed = now

    def mark_found(self, node: str) -> None:
        """There is a connection to it again."""
        self._lost.pop(node, None)

    def addresses(self, node: str) -> Sequence[str]:
        """Where a node says that it listens."""
        known = self._peers.get(node)
        return () if known is None else known.beat.addresses

    def verdict(self, node: str, now: float) -> Verdict:
        known = self._peers.get(node)
        return "dead" if known is None else self._verdict(known, now)

    @staticmethod
    def _verdict(peer: Peer, now: float) -> Verdict:
        silence = now - peer.heard
        if silence >= DEAD_SECONDS:
            return "dead"
        if now - peer.tick_moved >= max(HUNG_SECONDS, HUNG_LAYERS * peer.beat.layer_seconds):
            return "hung"
        return "suspect" if silence >= SUSPECT_SECONDS else "alive"

    def forget_dead(self, now: float) -> None:
        """Drop those of whom nothing was heard for a minute, and goodbyes: no late word comes after them any more."""
        self._peers = {node: peer for node, peer in self._peers.items() if now - peer.heard <= FORGET_SECONDS}
        self._gone = {node: gone for node, gone in self._gone.items() if now - gone[1] <= FORGET_SECONDS}
        self._lost = {node: lost for node, lost in self._lost.items() if now - lost[1] < DEAD_SECONDS}

    def live(self, now: float) -> list[Beat]:
        """The last beats of peers that are neither dead nor hung nor leaving, in id order."""
        return [beat for beat in self.present(now) if not beat.leaving]

    def present(self, now: float) -> list[Beat]:
        """The same, and those that are leaving: others should hear that they do."""
        return [
            peer.beat for _, peer in sorted(self._peers.items()) if self._verdict(peer, now) in ("alive", "suspect")
        ]

    def __contains__(self, node: str) -> bool:
        return node in self._peers

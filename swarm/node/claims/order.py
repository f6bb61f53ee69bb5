"""Whose move comes first, as every node with the same view works it out, and for whom nobody waits any longer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.messages.base import ClaimState
from swarm.messages.members import Beat
from swarm.models import ModelKey
from swarm.parts import Part, join_parts, whole
from swarm.plan.holdings import Move
from swarm.plan.moves import Plan, plan_moves
from swarm.plan.shares import PlannedNode
from swarm.plan.view import read_planned

DRAIN_SECONDS = 60.0  # for sessions to leave what is dropped: a long prompt is computed elsewhere meanwhile
PATIENCE_SECONDS = 30.0  # a node that is to move and does not is passed over
PASSED_SECONDS = 60.0  # for so long
STUCK_SECONDS = 30.0  # a load that makes no progress is not waited for


@dataclass(frozen=True, slots=True)
class _SeenMove:
    """What a node says that it loads or drains, and since when that has not changed."""

    model: str
    part: str
    state: ClaimState
    loaded_bytes: int
    since: float

    def is_stuck(self, now: float) -> bool:
        """Whether others should no longer wait for it."""
        patience = STUCK_SECONDS if self.state == "loading" else DRAIN_SECONDS + STUCK_SECONDS
        return now - self.since > patience


@dataclass(frozen=True, slots=True)
class DueMove:
    """Where a node should move to now. Urgent: no token comes until it and others have moved."""

    model: ModelKey
    target: Part
    is_urgent: bool


class MoveOrder:
    """The order of all nodes' moves, from their beats."""

    def __init__(self) -> None:
        self._plans: dict[str, tuple[Sequence[PlannedNode], Plan]] = {}  # by model: the last view, and what it leads to
        self._due: dict[str, tuple[Move, float]] = {}  # by model: whose move is first, since when
        self._passed: dict[str, float] = {}  # node → until when
        self._moves: dict[tuple[str, str, str, str], _SeenMove] = {}  # by node, model, variant and state
        self._members: set[tuple[str, int]] = set()  # nodes and their incarnations

    def watch(self, beats: Sequence[Beat], now: float) -> None:
        """Note who loads or drains, and since when without progress. beats: of all nodes, this one included.

        Where nodes have come or gone nobody is passed over any more: a move may have failed for want of just these.
        """
        members = {(beat.node, beat.incarnation) for beat in beats}
        if members != self._members:
            self._members = members
            self._passed.clear()
        known, self._moves = self._moves, {}
        for beat in beats:
            for claim in beat.claims:
                if claim.state in ("loading", "draining"):
                    key = beat.node, claim.model, claim.variant, claim.state
                    seen = known.get(key)
                    if seen is None or (seen.part, seen.loaded_bytes) != (claim.part, claim.loaded_bytes):
                        seen = _SeenMove(claim.model, claim.part, claim.state, claim.loaded_bytes, now)
                    self._moves[key] = seen

    def _is_under_way(self, model: str, now: float) -> bool:
        """Whether a move of a model makes progress: the next one waits for it."""
        return any(one.model == model and not one.is_stuck(now) for one in self._moves.values())

    def pass_over(self, node: str, now: float) -> None:
        """Plan without a node's moving, for a while."""
        self._passed[node] = now + PASSED_SECONDS

    def is_passed_over(self, node: str, now: float) -> bool:
        """Whether a node is left as it is for a while."""
        return self._passed.get(node, now) > now

    def find_due(self, node: str, model: str, layers: int, beats: Sequence[Beat], now: float) -> DueMove | None:
        """The move that a node should make now; None where it is another's turn.

        One whose turn comes and who does not move for long is passed over from the next look on. Where cells are missing, so
        that no token comes, nobody waits for anybody.
        """
        self._passed = {passed: until for passed, until in self._passed.items() if until > now}
        stuck = {mover for (mover, *_), one in self._moves.items() if one.model == model and one.is_stuck(now)}
        nodes = read_planned(beats, model, layers, self._passed, stuck)
        is_missing = join_parts(one.part for one in nodes) != whole(layers)
        if self._is_under_way(model, now) and not is_missing:
            return None
        known = self._plans.get(model)
        plan = plan_moves(nodes, layers) if known is None or known[0] != nodes else known[1]
        self._plans[model] = nodes, plan
        if not plan.moves:
            return None
        self._note_first(model, plan.moves[0], now)
        turn = plan.moves if is_missing else plan.moves[:1]
        own = [move for move in turn if move.node == node]
        return DueMove(ModelKey(model, own[-1].variant), own[-1].after, is_missing) if own else None

    def _note_first(self, model: str, first: Move, now: float) -> None:
        """Note whose move comes first, and pass over one who does not move for long."""
        due, since = self._due.get(model, (None, now))
        if due is None or (due.node, due.variant, due.after) != (first.node, first.variant, first.after):
            self._due[model] = first, now
        elif now - since > PATIENCE_SECONDS:
            self.pass_over(first.node, now)
            del self._due[model]

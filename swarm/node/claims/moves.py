"""Carries out this node's own moves: says what it intends, waits for better ones, loads, obtains holds, drains, drops.

Decides only. Which move is due is swarm.plan's answer, the same on every node with the same view. Before a cell is dropped
another node that serves it has promised to go on (a hold): views may be stale, so no answer means no move. Only where other
cells of the model are missing, so that nobody gets a token, is a cell dropped that no other node serves; nobody waits for
anybody then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from swarm.discovery.peers import PeerTable
from swarm.messages.members import AskHold, Beat, HoldAnswer
from swarm.models import ModelKey
from swarm.node.claims.claim import OwnClaim
from swarm.node.claims.holds import GivenHolds, ObtainedHolds
from swarm.node.claims.order import DRAIN_SECONDS, DueMove, MoveOrder
from swarm.node.claims.own import OwnClaims
from swarm.node.effects import Answer, Effect, Unload
from swarm.node.hops.sessions import SessionTable
from swarm.node.peers.membership import STILL_SECONDS
from swarm.parts import NOTHING, Part, join_parts, parse_part, whole
from swarm.plan.view import read_views
from swarm.wire.events import Asker

ROUND_SECONDS = 1.0  # between two looks at the plan, and between two requests for a hold
ROUNDS_TO_WAIT = 2  # of beats of every live peer, so that a better intent would have been heard
URGENT_ROUNDS = 1  # likewise where no token comes: no intent is waited for, but what others hold has to be known
ASK_SECONDS = 25.0  # for holds, until a move is given up
RENEW_SECONDS = 8.0  # between two requests for the same hold while sessions leave

Phase = Literal["intending", "growing", "holding", "draining", "shrinking", "settling", "making room"]


@dataclass(slots=True)
class _Moving:
    """The move that this node is at. Phases: intending, then growing, holding, draining, shrinking, where room allows.

    settling: keeping layers that were streamed, where there is room for them now. making room: keeping less, of another
    model, or of this one before more of it comes.
    """

    model: ModelKey
    target: Part
    since: float  # when the phase began
    phase: Phase = "intending"
    heard: dict[str, int] = field(default_factory=dict[str, int])  # peer → its round when it could first know
    asked_at: float = float("-inf")  # when it last asked others for holds


class MoveRunner:
    """This node's moves, and its promises to others that move."""

    def __init__(self, node: str, claims: OwnClaims, sessions: SessionTable, table: PeerTable) -> None:
        self._node = node
        self._claims = claims
        self._sessions = sessions
        self._table = table
        self.done = 0  # moves that came to their end
        self._moving: _Moving | None = None
        self._given = GivenHolds()
        self._obtained = ObtainedHolds()
        self._look_at = 0.0
        self._order = MoveOrder()

    @property
    def intent(self) -> Part:
        """Where this node would move to, if no better intent is heard; nothing while it intends nothing."""
        moving = self._moving
        return moving.target if moving is not None and moving.phase == "intending" else NOTHING

    @property
    def is_moving(self) -> bool:
        """Whether a move is under way, at which this node may serve nothing for a while."""
        return self._moving is not None and self._moving.phase != "intending"

    # Time -------------------------------------------------------------------------------------------------------------

    def advance(self, own: Beat, now: float) -> list[Effect]:
        """A moment has passed. own: this node's last beat, so that it plans with the figures that all others have."""
        self._given.advance(now)
        moving = self._moving
        if moving is None or moving.phase == "intending":
            if now < self._look_at:
                return []
            self._look_at = now + ROUND_SECONDS
            return self._look(own, now)
        match moving.phase:
            case "holding":
                return self._ask_holds(moving, now)
            case "draining":
                return self._drain(moving, now)
            case _:
                return []

    def _look(self, own: Beat, now: float) -> list[Effect]:
        """Whose move is it? Ours, once two beats of every peer have shown no better intent."""
        beats = self._table.live(now)
        self._order.watch([own, *beats], now)
        if now - self._table.changed < STILL_SECONDS or not self._claims.placed:
            self._moving = None
            return []
        for model, layers in sorted(self._claims.layers.items()):
            due = self._order.find_due(self._node, model, layers, [own, *beats], now)
            if due is not None:
                return self._intend(due, beats, now)
        self._moving = None
        return self._settle_any(now)

    def _settle_any(self, now: float) -> list[Effect]:
        """Where nobody has to move, some memory may have become free."""
        if self._order.is_passed_over(self._node, now):
            return []
        for model, claim in sorted(self._claims.by_model.items()):
            if not claim.is_moving and claim.loads_as is None:
                moving = _Moving(model, claim.held, now)
                effects = self._settle(moving, now)
                if effects:
                    self._moving = moving
                    return effects
        return []

    def _intend(self, due: DueMove, beats: Sequence[Beat], now: float) -> list[Effect]:
        moving = self._moving
        if moving is None or (moving.model, moving.target) != (due.model, due.target):
            moving = self._moving = _Moving(due.model, due.target, now)
        if not due.is_urgent and any(beat.intent and beat.node < self._node for beat in beats):
            moving.heard = {}
            return []
        heard = {beat.node: moving.heard.get(beat.node, beat.round) for beat in beats}
        moving.heard = heard
        rounds = URGENT_ROUNDS if due.is_urgent else ROUNDS_TO_WAIT
        if now == moving.since or any(beat.round < heard[beat.node] + rounds for beat in beats):
            return []
        return self.begin(due.model, due.target, now)

    # The move ---------------------------------------------------------------------------------------------------------

    def begin(self, model: ModelKey, target: Part, now: float) -> list[Effect]:
        """Move to another part; it takes its time. Nothing is dropped but what others have promised to serve."""
        if self._claims.of(model).is_moving or self.is_moving:
            return []
        self._moving = _Moving(model, target, now)
        return self._proceed(self._moving, now)

    def _proceed(self, moving: _Moving, now: float) -> list[Effect]:
        """The next part of the move: what is new first, if there is room for it beside what is to go."""
        claim = self._claims.of(moving.model)
        union = claim.held | moving.target
        gained = moving.target - claim.held
        reclaimed = [] if gained.is_empty() else self._sessions.reclaim(moving.model)
        residence = (
            None if gained.is_empty() else self._claims.room.hold_while_moving(moving.model, union, moving.target)
        )
        if residence is not None:
            thinning = self._claims.room.thin_out(moving.model, union, residence)
            if thinning is not None:
                self._enter(moving, "making room", now)
                return [*reclaimed, thinning]
            self._enter(moving, "growing", now)
            return [*reclaimed, self._claims.room.load(moving.model, gained, union, residence)]
        if not self._dropped(moving, claim).is_empty():
            self._enter(moving, "holding", now)
            return [*reclaimed, *self._ask_holds(moving, now)]
        if not gained.is_empty():
            yielding = self._claims.room.make_room(moving.model, union)
            if yielding is not None:
                self._enter(moving, "making room", now)
                return [*reclaimed, yielding]
        return [*reclaimed, *(self._settle(moving, now) or self._finish(moving, now))]

    def _settle(self, moving: _Moving, now: float) -> list[Effect]:
        """Keep layers that are read from disk, as many as there is room for; nothing to do in most cases."""
        residence = self._claims.room.keep_more(moving.model)
        if residence is None:
            return []
        self._enter(moving, "settling", now)
        return [self._claims.room.load(moving.model, NOTHING, self._claims.of(moving.model).held, residence)]

    def _enter(self, moving: _Moving, phase: Phase, now: float) -> None:
        moving.phase, moving.since = phase, now

    @staticmethod
    def _dropped(moving: _Moving, claim: OwnClaim) -> Part:
        return claim.held - moving.target

    def loaded(self, model: ModelKey, part: Part, now: float) -> list[Effect]:
        """Just this part of a model is loaded now."""
        claim = self._claims.of(model)
        moving = self._moving
        claim.take_up(part)
        if moving is not None and moving.phase == "making room":
            return self._proceed(moving, now)
        if moving is None or moving.model != model:
            return []
        if moving.phase == "shrinking":
            claim.draining = NOTHING
            return [*self._obtained.release(), *self._proceed(moving, now)]
        return self._proceed(moving, now) if moving.phase in ("growing", "settling") else []

    def failed(self, model: ModelKey, now: float) -> list[Effect]:
        """A part could not be loaded: what was served before still is."""
        claim = self._claims.of(model)
        claim.loading, claim.loads_as, claim.loaded_bytes = NOTHING, None, 0
        moving = self._moving
        if moving is not None and moving.phase == "making room":
            return self._finish(moving, now)
        if moving is None or moving.model != model:
            return []
        claim.serving = claim.serving | claim.draining
        claim.draining = NOTHING
        if moving.phase == "settling":
            self._order.pass_over(self._node, now)
        return self._finish(moving, now)

    def drop(self, model: ModelKey, now: float) -> list[Effect]:
        """Something else decides what becomes of a model here: the move is over as it is."""
        moving = self._moving
        is_over = moving is not None and (moving.model == model or moving.phase == "making room")
        return self._stop(now) if is_over else []

    def _finish(self, moving: _Moving, now: float) -> list[Effect]:
        """The move is over; one that did not come to its end is not tried again for a while."""
        if self._claims.of(moving.model).held == moving.target:
            self.done += 1
        else:
            self._order.pass_over(self._node, now)
        return self._stop(now)

    def _stop(self, now: float) -> list[Effect]:
        self._moving = None
        self._look_at = now + ROUND_SECONDS
        return self._obtained.release()

    # Holds ------------------------------------------------------------------------------------------------------------

    def _ask_holds(self, moving: _Moving, now: float) -> list[Effect]:
        """Have others promise to go on serving what is to be dropped; then drop it."""
        claim = self._claims.of(moving.model)
        dropped = self._dropped(moving, claim)
        self._obtained.forget_lapsed(self._list_live(now), now)
        if self._is_spared(moving, dropped, now):
            return self._start_draining(moving, claim, dropped, now)
        if now - moving.since > ASK_SECONDS:
            return self._finish(moving, now)
        if now - moving.asked_at < ROUND_SECONDS or self._given.cover(moving.model.id, dropped):
            return []
        return self._request_holds(moving, claim, dropped, now)

    def _request_holds(self, moving: _Moving, claim: OwnClaim, dropped: Part, now: float) -> list[Effect]:
        moving.asked_at = now
        wanted: dict[str, Part] = {}
        for view in read_views(self._table.live(now), moving.model.id, claim.layers):
            wanted[view.node] = wanted.get(view.node, NOTHING) | (dropped & view.part("serving"))
        wanted = {node: part for node, part in wanted.items() if not part.is_empty()}
        return self._obtained.ask(moving.model.id, wanted, now)

    def _is_spared(self, moving: _Moving, dropped: Part, now: float) -> bool:
        """Whether nobody needs it here: others serve it, or no token comes as it is.

        None does while other cells are missing. While those are on their way, others must have what is dropped, or load it.
        """
        if self._is_held(moving, dropped):
            return True
        if self._given.cover(moving.model.id, dropped):
            return False
        layers = self._claims.of(moving.model).layers
        views = read_views(self._table.live(now), moving.model.id, layers)
        here, served = self._claims.held(moving.model.id), join_parts(view.part("serving") for view in views)
        elsewhere = served | join_parts(view.part("loading") for view in views)
        everything = whole(layers)
        return here | elsewhere != everything or (here | served != everything and elsewhere.covers(dropped))

    def _is_held(self, moving: _Moving, dropped: Part) -> bool:
        """Whether it is served without this claim, by others or by this node in other variants."""
        here = self._claims.serving(moving.model.id, moving.model)
        return (dropped - (here | self._obtained.part)).is_empty()

    def _list_live(self, now: float) -> set[str]:
        return {beat.node for beat in self._table.live(now)}

    def take_request(self, asker: Asker, request: AskHold, now: float) -> list[Effect]:
        """Another node wants to drop cells that this one serves too: promise what is served here and stays.

        Of two that want the same the lower id goes first; the other withdraws its own request. Raises RequestError if what
        is asked for is no part of the model.
        """
        layers = self._claims.layers.get(request.model)
        if layers is None or self._sessions.leaving.is_whole_node:
            return [Answer(asker, HoldAnswer(number=request.number, part=""))]
        granted = parse_part(request.part, layers) & self._claims.serving(request.model)
        effects: list[Effect] = []
        moving = self._moving
        if moving is not None and moving.phase == "holding" and moving.model.id == request.model:
            others = self._claims.serving(request.model, moving.model)
            wanted = (self._dropped(moving, self._claims.of(moving.model)) & granted) - others
            wanted = wanted - self._given.to(asker.node, request.model)  # asked again: what was promised stays promised
            if not wanted.is_empty():
                if asker.node < self._node:
                    effects += self._stop(now)
                else:
                    granted = granted - wanted
        if not granted.is_empty():
            self._given.give(asker.node, request.model, granted, now)
        return [*effects, Answer(asker, HoldAnswer(number=request.number, part=str(granted)))]

    def take_answer(self, node: str, answer: HoldAnswer) -> None:
        """A node goes on serving part of what we asked for; answers to earlier moves mean nothing.

        Raises RequestError if that is no part of the model.
        """
        if self._moving is not None:
            self._obtained.take(node, answer, self._claims.of(self._moving.model).layers)

    def release(self, node: str) -> None:
        """A node has dropped what it wanted to."""
        self._given.release(node)

    # Draining ---------------------------------------------------------------------------------------------------------

    def _start_draining(self, moving: _Moving, claim: OwnClaim, dropped: Part, now: float) -> list[Effect]:
        self._enter(moving, "draining", now)
        claim.serving, claim.draining = claim.serving - dropped, dropped
        return self._drain(moving, now)

    def _drain(self, moving: _Moving, now: float) -> list[Effect]:
        """Drop what no session uses any more; take it back if those who promised to serve it are gone."""
        claim = self._claims.of(moving.model)
        self._obtained.forget_lapsed(self._list_live(now), now)
        if not self._is_spared(moving, claim.draining, now):
            claim.serving = claim.serving | claim.draining
            claim.draining = NOTHING
            return self._finish(moving, now)
        if self._sessions.uses(moving.model, claim.draining) and now - moving.since < DRAIN_SECONDS:
            if now - moving.asked_at < RENEW_SECONDS:
                return []
            return self._request_holds(moving, claim, claim.draining, now)
        effects = self._sessions.forget_users(moving.model, claim.draining)
        self._enter(moving, "shrinking", now)
        if claim.serving.is_empty():
            return [
                *effects,
                *self._sessions.withdraw(moving.model),
                Unload(moving.model),
                *self.loaded(moving.model, NOTHING, now),
            ]
        return [
            *effects,
            self._claims.room.load(moving.model, NOTHING, claim.serving, claim.loaded_as.of(claim.serving)),
        ]

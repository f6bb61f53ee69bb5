"""Decides what a node does next: `handle(event, now) -> [effects]`.

Owns the order in which membership, claims and sessions hear of things. Owns no socket, thread, tensor or clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from swarm.discovery.peers import BEAT_SECONDS
from swarm.errors import RequestError
from swarm.messages.files import AskFile, AskModel, ModelCard
from swarm.messages.members import AskHold, AskPeers, Beat, BeatAck, Goodbye, Hello, HoldAnswer, ReleaseHold, Welcome
from swarm.messages.sessions import Close, Open, Refused, Renew, Resend
from swarm.messages.steps import Credit, Probe, ProbeAck, StepRefused, Steps
from swarm.messages.timings import AskTimings
from swarm.node.claims.keeper import ClaimKeeper
from swarm.node.claims.moves import MoveRunner
from swarm.node.claims.own import OwnClaims
from swarm.node.effects import Advertise, Answer, AnswerFile, Effect, Exit, Report, SendPeer
from swarm.node.events import (
    AddressSeen,
    BatchDone,
    BatchFailed,
    ComputeEnded,
    CoresTaken,
    Event,
    PartFailed,
    PartLoaded,
    PartProgress,
    Started,
    StopAsked,
    Ticked,
    WeightsDamaged,
    WeightsLost,
)
from swarm.node.hops.opening import Opening
from swarm.node.hops.sessions import SessionTable
from swarm.node.hops.steps import StepRunner
from swarm.node.peers.links import LinkMeter
from swarm.node.peers.membership import Membership
from swarm.wire.events import UNREACHABLE, Arrived, LinkDown, LinkFailed, LinkMessage, LinkRefused, LinkUp

LEAVE_SECONDS = 4.0  # for sessions to go elsewhere, of the 5 in which a node leaves


class NodeMachine:
    """The whole of a node's decisions."""

    def __init__(self, membership: Membership, cards: Mapping[str, ModelCard]) -> None:
        self.membership = membership
        self.claims = OwnClaims(membership.me, membership.local)
        self.sessions = SessionTable(membership.me.node, self.claims.account, self.claims.leaving)
        self.opening = Opening(self.sessions)
        self.steps = StepRunner(self.sessions)
        self.moves = MoveRunner(membership.me.node, self.claims, self.sessions, membership.table)
        self.keeper = ClaimKeeper(self.claims, self.sessions, self.moves, membership)
        self.links = LinkMeter(membership.me.node)
        self._cards = cards
        self._tick = Ticked(0, 0)
        self._data_port = 1
        self._last_beat = float("-inf")
        self._leave_at = float("inf")
        self._is_fixed = False
        self._advertised: Advertise | None = None
        self._said: Beat | None = None  # the last beat

    @property
    def is_leaving(self) -> bool:
        """Whether this node goes, as soon as its sessions have."""
        return self.claims.leaving.is_whole_node

    @property
    def node(self) -> str:
        return self.membership.me.node

    @property
    def said(self) -> Beat | None:
        """The last that it said of itself; any thread may read it."""
        return self._said

    def handle(self, event: Event, now: float) -> Iterable[Effect]:
        """Apply one event at `now` (seconds, monotonic); give what the shell must do, in order.

        All of it must be taken before the next event: some is decided only when what comes before has been done.
        """
        match event:  # what a decode step passes through comes first: every case tried costs cold memory
            case Arrived():
                return self._receive(event, now)
            case CoresTaken():
                return self.steps.cores_taken(event.was_contended, now)
            case BatchDone():
                return self.steps.batch_done(event.result, now)
            case Started():
                return self._start(event, now)
            case Ticked():
                return self._advance(event, now)
            case AddressSeen():
                return self.membership.see_advert(event.address, now)
            case LinkMessage():
                return self._receive_back(event, now)
            case LinkUp():
                if event.channel == "data":
                    effects = [*self.opening.link_up(event.node, now), *self.steps.resend_to(event.node)]
                    return [*effects, *self.links.up(event.node, now)]
                return [*self.membership.link_up(event, now), *self._greet(event)]
            case LinkDown():
                if event.channel == "control":
                    return self.membership.link_down(event, now)
                self.links.down(event.node)
                return self.sessions.link_down(event.node, self._tick.tick)
            case LinkRefused():
                return []  # a peer counts as dead from when its link broke
            case LinkFailed():
                if event.channel == "data":
                    return []
                said = [_explain_failure(event)] if self.membership.is_news(event.address) else []
                return [*said, *self.membership.link_failed(event, now)]
            case PartLoaded():
                effects = self.keeper.loaded(event.served, now)
                return [*effects, *self._say(), *self.steps.pump(now)] if effects else []
            case PartProgress():
                return self.keeper.progressed(event)
            case WeightsDamaged():
                return [*self.keeper.damaged(event, now), *self._say()]
            case WeightsLost():
                return [*self.keeper.lost(event, now), *self._say()]
            case ComputeEnded():
                return [Report("failed", {"message": event.message}), Exit(1)]
            case PartFailed():
                return [*self.keeper.failed(event, now), *self._say()]
            case BatchFailed():
                return [
                    Report("compute-failed", {"message": event.message}),
                    *self.steps.batch_failed(event.message),
                    *self.steps.pump(now),
                ]
            case StopAsked():
                return self._stop(now)

    # Starting, stopping, time -----------------------------------------------------------------------------------------

    def _start(self, event: Started, now: float) -> list[Effect]:
        self._data_port = event.data_port
        effects = self.membership.start(event.peers, event.remembered, now)
        if event.placement:
            self._is_fixed = True
            return [*effects, *self.keeper.take_up(event.placement), *self._say()]
        return [Report("looking", {}), *effects]

    def _stop(self, now: float) -> list[Effect]:
        if self.is_leaving:
            return [Exit(1)]
        self.claims.leaving.is_whole_node = True
        self._leave_at = now + LEAVE_SECONDS
        told = self.sessions.tell_draining(self._tick.tick)
        return [Report("leaving", {}), *self._say(), *told, *self._leave(now)]

    def _leave(self, now: float) -> list[Effect]:
        """Go once the sessions here have gone to other chains, or have had their time."""
        if self.sessions.sessions and now < self._leave_at:
            return []
        goodbye = Goodbye(node=self.node, incarnation=self.membership.me.incarnation)
        return [*(SendPeer(node, "control", goodbye) for node in sorted(self.membership.links)), Exit(0)]

    def _advance(self, event: Ticked, now: float) -> list[Effect]:
        self._tick = event
        effects = [*self.sessions.sweep(now), *self.opening.sweep(now)]
        if not self._is_fixed and not self.is_leaving and not self.moves.is_moving:
            placement = self.membership.choose(self.claims.placed, not self.sessions.served, now)
            if placement is not None:
                effects += [*self.keeper.take_up(placement), *self._say()]
        effects += self._leave(now) if self.is_leaving else self._move(now)
        if now - self._last_beat >= BEAT_SECONDS:
            self._last_beat = now
            self.membership.table.forget_dead(now)
            self.claims.note_figures(self.sessions)
            for node, (seconds, size) in self.steps.take_crossings().items():
                rtt = self.links.without_load(node, seconds, size)
                if rtt is not None:
                    self.membership.note_rtt(node, rtt)
            self.membership.begin_round()
            self._said = self.make_beat()
            effects += [*self.membership.beat(self._said, now), *self.links.advance(now)]
        return effects + self._advertise() + self.steps.pump(now)

    def _move(self, now: float) -> list[Effect]:
        """Go on with this node's move; what changes by it is said at once."""
        if self._said is None:
            return []
        before = self.claims.states
        effects = self.moves.advance(self._said, now)
        if self.claims.states == before:
            return effects
        return [*effects, *self._say(), *self.sessions.tell_draining(self._tick.tick)]

    def _say(self) -> list[Effect]:
        """Tell every peer how things are now."""
        self._said = self.make_beat()
        return [SendPeer(node, "control", self._said) for node in sorted(self.membership.links)]

    def _greet(self, event: LinkUp) -> list[Effect]:
        """A new peer hears of us at once rather than at the next beat."""
        if self.membership.links.get(event.node) != event.address:
            return []
        return [SendPeer(event.node, "control", self.make_beat())]

    def make_beat(self) -> Beat:
        """What this node says of itself now."""
        return self.membership.make_beat(
            self._tick.tick,
            max(0, self.claims.account.free()),
            self.claims.list_claims(self.sessions),
            [] if self._is_fixed else self.claims.list_capacities(),
            self.moves.intent,
            self.links.rates,
            is_leaving=self.is_leaving,
            sessions=self.sessions.session_count,
            queue=self.sessions.queue_length,
            refused=self._tick.refused,
            dropped=self.steps.dropped,
            resent=self.steps.resent,
            passed_over=self.steps.passed_over,
            turns_waited=self.steps.turns_waited,
            moves=self.moves.done,
            caches=self._tick.caches,
        )

    def _advertise(self) -> list[Effect]:
        """The advert follows when the claim changes, or spare memory by more than an eighth."""
        model, part = next(
            ((self.membership.local[model].name, str(part)) for model, part in sorted(self.claims.placed.items())),
            ("", ""),
        )
        last = self._advertised
        wanted = Advertise(model, part, max(0, self.claims.account.free()))
        if last is not None and (last.model, last.part) == (model, part):
            change = abs(last.memory_free - wanted.memory_free)
            if change <= last.memory_free // 8:
                return []
        self._advertised = wanted
        return [wanted]

    # Messages ---------------------------------------------------------------------------------------------------------

    def _receive(self, arrived: Arrived, now: float) -> list[Effect]:
        asker, message = arrived.asker, arrived.message
        match message:
            case Steps():
                return self.steps.receive_steps(asker, message, arrived.tensor, now)
            case Probe():
                self.links.meet(asker.node, message.number)
                return [Answer(asker, ProbeAck(number=message.number))]
            case Hello():
                me = self.membership.me
                welcome = Welcome(node=me.node, incarnation=me.incarnation, name=me.name, data_port=self._data_port)
                return [Answer(asker, welcome)]
            case Beat():
                return self.membership.take_beat(arrived, message, now)
            case Goodbye():
                return self.membership.take_goodbye(arrived, message, now)
            case AskPeers():
                return [self.membership.page(asker, message, self.make_beat(), now)]
            case AskModel():
                card = self._cards.get(message.model)
                return [Answer(asker, card or Refused(code="UNKNOWN_MODEL", message="no weights of that model here"))]
            case AskFile():
                return [AnswerFile(asker, message.digest, message.offset)]
            case AskHold():
                try:
                    return self.moves.take_request(asker, message, now)
                except RequestError as error:
                    return [Answer(asker, Refused(code="BAD_MESSAGE", message=str(error)))]
            case ReleaseHold():
                self.moves.release(asker.node)
                return []
            case Open():
                return self.opening.open(asker, message, arrived.tensor, now)
            case Renew():
                return self.sessions.renew(asker, message, self._tick.tick, now)
            case Close():
                return [*self.opening.close(asker, message, now), *self.steps.pump(now)]
            case Resend():
                return self.steps.resend(asker, message)
            case AskTimings():
                return [self.sessions.tell_timings(asker, message, now)]
            case _:
                return [Answer(asker, Refused(code="BAD_MESSAGE", message=f"{type(message).__name__} is no request"))]

    def _receive_back(self, event: LinkMessage, now: float) -> list[Effect]:
        """What a listener answers on a connection of ours."""
        match event.message:
            case BeatAck():
                self.membership.take_ack(event.node, event.message, now)
            case Credit():
                return self.steps.take_credit(event.node, event.message, now)
            case ProbeAck():
                return self.links.take_ack(event.node, event.message, now)
            case HoldAnswer():
                with contextlib.suppress(RequestError):  # of a part that the model has not got: nothing is promised
                    self.moves.take_answer(event.node, event.message)
            case StepRefused():
                return self.steps.step_refused(event.node, event.message)
            case Refused():
                return [Report("refused", {"peer": event.node, "code": event.message.code})]
            case _:
                pass
        return []


def _explain_failure(event: LinkFailed) -> Effect:
    kind = "blocked" if event.reason == UNREACHABLE else "wrong-secret"
    return Report(kind, {"address": event.address, "reason": event.reason})

"""The sessions that this node has: their parts, KV reservations, leases, and what is said of them.

Decides only: messages and times go in, effects come out. Who gets one is opening.py's affair, what they then do steps.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarm.messages.sessions import Refused, Renew, Renewed
from swarm.messages.timings import MOST_TOLD, AskTimings, Timings
from swarm.models import ModelKey
from swarm.node.account import MemoryAccount
from swarm.node.batches import ServedPart
from swarm.node.effects import Answer, Effect, Forget, SendClient
from swarm.node.hops.admission import refuse
from swarm.node.hops.batching import Pace
from swarm.node.hops.hop import IDLE_SECONDS, LEASE_SECONDS, HopSession, pages_of
from swarm.node.hops.running import Running
from swarm.node.leaving import Leaving
from swarm.parts import Part
from swarm.wire.events import Asker

QUIET_SECONDS = 5.0  # after which a hop that is not the last takes an answer for over


class SessionTable:
    """Every session at this node."""

    def __init__(self, node: str, memory: MemoryAccount, leaving: Leaving) -> None:
        """memory: where KV is reserved."""
        self.node = node
        self.memory = memory
        self.leaving = leaving
        self.served: dict[ModelKey, ServedPart] = {}
        self.paces: dict[ModelKey, Pace] = {}
        self.sessions: dict[tuple[str, int], HopSession] = {}
        self._of_session: dict[str, dict[int, HopSession]] = {}  # the same by session, then hop
        self.running: Running | None = None  # what the compute thread has of them
        self.links: set[str] = set()  # nodes that our data connection reaches

    # Parts ------------------------------------------------------------------------------------------------------------

    def serve(self, served: ServedPart) -> None:
        """A part is loaded."""
        self.served[served.model] = served
        self.paces.setdefault(served.model, Pace()).load(served)

    def withdraw(self, model: ModelKey) -> list[Effect]:
        """A part is given up: its sessions end here."""
        self.served.pop(model, None)
        self.paces.pop(model, None)
        gone = [hop for hop in self.sessions.values() if hop.model == model]
        return [effect for hop in gone for effect in self.forget(hop)]

    def kv_free(self, model: ModelKey) -> int:
        """KV bytes that further sessions of a model may reserve."""
        return self.kv_room(model) - self.memory.kv_used(model)

    def kv_room(self, model: ModelKey) -> int:
        """KV bytes that all sessions of a model may reserve."""
        return min(self.served[model].kv_capacity, self.memory.kv_room(model))

    def uses(self, model: ModelKey, part: Part) -> bool:
        """Whether a session runs through any of these cells here."""
        return bool(self._users(model, part))

    def forget_users(self, model: ModelKey, part: Part) -> list[Effect]:
        """End the sessions that run through any of these cells here; their clients find another chain."""
        return [effect for hop in self._users(model, part) for effect in self.forget(hop)]

    def refuse_users(self, model: ModelKey, part: Part, message: str) -> list[Effect]:
        """The same, and tell them why: nothing here is to be relied on."""
        return [
            SendClient(hop.owner, refuse(hop.order, "FAILED", f'"{hop.part}": {message}'), "control")
            for hop in self._users(model, part)
        ] + self.forget_users(model, part)

    def _users(self, model: ModelKey, part: Part) -> list[HopSession]:
        return [hop for hop in self.sessions.values() if hop.model == model and self._runs_through(hop, part)]

    def _runs_through(self, hop: HopSession, part: Part) -> bool:
        return not (hop.part & part).is_empty()

    def is_draining(self, hop: HopSession) -> bool:
        return self.leaving.concerns(hop.model, hop.part)

    def hops_of(self, session: str) -> list[HopSession]:
        """What this node is of a session's chain."""
        return list(self._of_session.get(session, {}).values())

    def add(self, hop: HopSession) -> None:
        self.sessions[hop.key] = hop
        self.memory.reserve(hop.model, hop.kv_bytes)
        self._of_session.setdefault(hop.order.session, {})[hop.order.stage] = hop

    def remove(self, hop: HopSession) -> None:
        session = hop.order.session
        if self.sessions.pop(hop.key, None) is None:
            return
        self.memory.reserve(hop.model, -hop.kv_bytes)
        del self._of_session[session][hop.order.stage]
        if not self._of_session[session]:
            del self._of_session[session]

    @property
    def session_count(self) -> int:
        return len(self._of_session)

    @property
    def queue_length(self) -> int:
        return sum(len(hop.queue) for hop in self.sessions.values())

    # Room ------------------------------------------------------------------------------------------------------------

    def make_room(self, model: ModelKey, needed: int, session: str) -> list[Effect]:
        """Evict sessions whose answer is over until `needed` bytes are free: the model's own first, longest unused first."""
        effects: list[Effect] = []
        idle = [hop for hop in self.sessions.values() if self._is_idle(hop)]
        for hop in sorted(idle, key=lambda hop: (hop.model != model, hop.used)):
            is_other = hop.model != model
            if is_other and self.served[model].kv_capacity - self.memory.kv_used(model) < needed:
                break  # what is lacking is not others'
            if is_other and not self.memory.borrows(hop.model):
                continue
            if self.kv_free(model) >= needed:
                break
            if hop.order.session != session:
                effects += self.forget(hop)
        return effects

    def reclaim(self, model: ModelKey) -> list[Effect]:
        """End idle sessions of other models that use more than those are sure of: a part of this one needs the memory."""
        effects: list[Effect] = []
        for hop in sorted(self.sessions.values(), key=lambda hop: hop.used):
            if hop.model != model and self._is_idle(hop) and self.memory.borrows(hop.model):
                effects += self.forget(hop)
        return effects

    def _is_idle(self, hop: HopSession) -> bool:
        """Whether a session's answer is over; only the last hop knows for sure, the others judge by silence."""
        renewed = hop.lease - LEASE_SECONDS
        if hop.queue or (self.running is not None and self.running.computes_for(hop)):
            return False
        return hop.is_finished or renewed - hop.used > QUIET_SECONDS

    def forget(self, hop: HopSession) -> list[Effect]:
        """Forget a session's hop, and its cache."""
        self.remove(hop)
        return [Forget(hop.model, hop.order.session, hop.part)]

    def link_down(self, node: str, tick: int) -> list[Effect]:
        """Our data connection to a node broke: clients whose chain goes on there should not hear of it a renewal later."""
        self.links.discard(node)
        return self._tell((hop for hop in self.sessions.values() if hop.order.next == node), tick)

    def tell_draining(self, tick: int) -> list[Effect]:
        """Clients whose sessions must leave hear of it now: they have little time to have another chain compute them."""
        return self._tell((hop for hop in self.sessions.values() if self.is_draining(hop)), tick)

    # Leases -----------------------------------------------------------------------------------------------------------

    def renew(self, asker: Asker, message: Renew, tick: int, now: float) -> list[Effect]:
        """Prolong a session's leases and say where it stands; the last hop sends again what the client seems to miss."""
        hops = [
            hop
            for hop in self.hops_of(message.session)
            if hop.owner == asker.node and hop.order.attempt == message.attempt
        ]
        if not hops:
            return [
                Answer(
                    asker,
                    Refused(
                        code="UNKNOWN_SESSION",
                        message="no such session at this attempt",
                        session=message.session,
                        attempt=message.attempt,
                    ),
                )
            ]
        effects: list[Effect] = []
        for hop in hops:
            hop.lease = now + LEASE_SECONDS
            if hop.tail is not None:
                if message.have == hop.have < len(hop.ids):
                    effects += [SendClient(hop.owner, page) for page in pages_of(hop, message.have)]
                hop.have = message.have
        return [Answer(asker, self._describe(hops, tick)), *effects]

    def tell_timings(self, asker: Asker, message: AskTimings, now: float) -> Effect:
        """What the last tokens of the asker's session spent here."""
        hops = [hop for hop in self.hops_of(message.session) if message.wants_steps and hop.owner == asker.node]
        steps = [step for hop in hops for step in hop.timings]
        told = Timings(session=message.session, number=message.number, clock=now, steps=steps[-MOST_TOLD:])
        return Answer(asker, told)

    def _tell(self, hops: Iterable[HopSession], tick: int) -> list[Effect]:
        """What the next renewal would answer, unasked."""
        told: dict[tuple[str, int], list[HopSession]] = {}
        for hop in hops:
            told.setdefault((hop.order.session, hop.order.attempt), []).append(hop)
        return [SendClient(together[0].owner, self._describe(together, tick), "control") for together in told.values()]

    def _describe(self, hops: Sequence[HopSession], tick: int) -> Renewed:
        """Where a session stands here, at one attempt."""
        order = hops[0].order
        return Renewed(
            session=order.session,
            attempt=order.attempt,
            cached={hop.order.stage: hop.cached for hop in hops},
            known=max((len(hop.ids) for hop in hops if hop.tail is not None), default=0),
            tick=tick,
            busy_seconds=sum(hop.busy_seconds for hop in hops),
            lost=sorted({hop.order.next for hop in hops} - self.links - {self.node}),
            is_draining=any(self.is_draining(hop) for hop in hops),
            is_waiting=any(hop.is_waiting for hop in hops),
        )

    def sweep(self, now: float) -> list[Effect]:
        """Free what expired."""
        effects: list[Effect] = []
        for hop in list(self.sessions.values()):
            if hop.lease < now or hop.used + IDLE_SECONDS < now:
                effects += self.forget(hop)
        return effects

"""Which sessions this node has room for: opening, closing, leases, KV reservations.

Decides only: messages and times go in, effects come out. What the sessions then do is steps.py's affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.errors import RequestError
from swarm.messages.sessions import Close, Open, Opened, Refused, Renew, Renewed
from swarm.messages.tensors import WireTensor, ids_of
from swarm.models import ModelKey
from swarm.node.account import MemoryAccount
from swarm.node.batches import MOST_SESSIONS, ServedPart
from swarm.node.effects import Answer, DialData, Effect, Forget, SendClient
from swarm.node.hops.admission import Request, judge, refuse
from swarm.node.hops.batching import Pace
from swarm.node.hops.hop import IDLE_SECONDS, LEASE_SECONDS, HopSession, pages_of
from swarm.node.hops.running import Running
from swarm.node.leaving import Leaving
from swarm.parts import Part, parse_part
from swarm.wire.events import Asker

MOST_TOMBSTONES = 16_384
CLOSED_SECONDS = 60.0
LINK_SECONDS = 3.0
QUIET_SECONDS = 5.0  # after which a hop that is not the last takes an answer for over


@dataclass(frozen=True, slots=True)
class _WaitingOpen:
    asker: Asker
    order: Open
    tensor: WireTensor | None
    until: float


@dataclass(frozen=True, slots=True)
class _Tombstone:
    attempt: int
    until: float


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
        self._waiting: list[_WaitingOpen] = []
        self._tombstones: dict[str, _Tombstone] = {}

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
        room = min(self.served[model].kv_capacity, self.memory.kv_room(model))
        return room - self.memory.kv_used(model)

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

    def _is_draining(self, hop: HopSession) -> bool:
        return self.leaving.concerns(hop.model, hop.part)

    def hops_of(self, session: str) -> list[HopSession]:
        """What this node is of a session's chain."""
        return list(self._of_session.get(session, {}).values())

    def _add(self, hop: HopSession) -> None:
        self.sessions[hop.key] = hop
        self.memory.reserve(hop.model, hop.kv_bytes)
        self._of_session.setdefault(hop.order.session, {})[hop.order.stage] = hop

    def _remove(self, hop: HopSession) -> None:
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

    # Opening and closing ----------------------------------------------------------------------------------------------

    def open(self, asker: Asker, order: Open, tensor: WireTensor | None, now: float) -> list[Effect]:
        """Reserve what a session needs and answer Opened, or Refused with the reason and the numbers."""
        try:
            refusal, effects = self._try_open(asker, order, tensor, now)
        except RequestError as error:
            refusal, effects = refuse(order, "NOT_SERVING", str(error)), []
        if refusal is not None:
            return [*effects, Answer(asker, refusal)]
        return effects

    def _try_open(
        self, asker: Asker, order: Open, tensor: WireTensor | None, now: float
    ) -> tuple[Refused | None, list[Effect]]:
        served = self._find_served(order)
        if served is None:
            return refuse(order, "NOT_SERVING", self._explain_absence(order)), []
        old = self._find_old(order, served.model)
        request = self._request(asker, order, tensor, served, old is not None, now)
        refusal = judge(request)
        if refusal is not None:
            return refusal, []
        known = self.sessions.get((order.session, order.stage))
        if known is not None and known.order.attempt == order.attempt:
            return None, [Answer(asker, self._opened(known))]  # asked twice, answered twice
        if order.next != self.node and order.next not in self.links:
            # Asked again meanwhile: one answer is enough.
            self._waiting = [
                one for one in self._waiting if (one.order.session, one.order.stage) != (order.session, order.stage)
            ]
            self._waiting.append(_WaitingOpen(asker, order, tensor, now + LINK_SECONDS))
            return None, [DialData(order.next)]
        needed = request.needed
        replaced = [one for one in (old, self.sessions.get((order.session, order.stage))) if one is not None]
        freed = sum(one.kv_bytes for one in {one.key: one for one in replaced}.values() if one.model == served.model)
        effects = self._make_room(served.model, needed - freed, order.session)
        free = self.kv_free(served.model) + freed
        if needed > free:
            message = f"{order.positions} positions need {needed:,} bytes of KV here, {max(free, 0):,} are free"
            return refuse(order, "KV_FULL", message, retry_seconds=1.0), effects
        hop = HopSession(
            order=order,
            owner=asker.node,
            model=served.model,
            part=request.part,
            lease=now + LEASE_SECONDS,
            used=now,
            kv_bytes=needed,
        )
        if old is not None:
            self._remove(old)
            hop.cached = hop.accepted = min(order.keep, old.cached)
        if hop.key in self.sessions:  # an earlier attempt had another part here
            effects += self.forget(self.sessions[hop.key])
        if order.tail is not None:
            assert tensor is not None
            hop.ids = ids_of(tensor)
            hop.have = len(hop.ids)
        self._add(hop)
        return None, [*effects, Answer(asker, self._opened(hop))]

    def _opened(self, hop: HopSession) -> Opened:
        order = hop.order
        return Opened(
            session=order.session,
            attempt=order.attempt,
            stage=order.stage,
            cached=hop.cached,
            is_draining=self._is_draining(hop),
        )

    def _request(
        self, asker: Asker, order: Open, tensor: WireTensor | None, served: ServedPart, goes_on: bool, now: float
    ) -> Request:
        """An open with what is known here that bears on it."""
        part = parse_part(order.part, served.layers)
        stone = self._tombstones.get(order.session)
        mine = self.hops_of(order.session)
        is_known = bool(mine) or any(one.order.session == order.session for one in self._waiting)
        return Request(
            client=asker.node,
            order=order,
            part=part,
            tensor=tensor,
            served=served,
            mine=mine,
            goes_on=goes_on,
            draining=self.leaving.part_of(served.model),
            is_leaving=self.leaving.is_whole_node,
            is_closed=stone is not None and order.attempt <= stone.attempt and now < stone.until,
            has_place=is_known or len(self.sessions) + len(self._waiting) < MOST_SESSIONS,
            most_sessions=MOST_SESSIONS,
            needed=served.kv_bytes(part, order.positions),
            most_kv=min(served.kv_capacity, self.memory.most_kv_room(served.model, served.part)),
        )

    def _find_served(self, order: Open) -> ServedPart | None:
        """What an open asks for, in the variant that it asks for: of several, the first that has its part."""
        fitting = [
            served
            for model, served in sorted(self.served.items())
            if model.id == order.model and order.variant in ("", model.variant)
        ]
        complete = (one for one in fitting if one.part.covers(parse_part(order.part, one.layers)))
        return next(complete, fitting[0] if fitting else None)

    def _explain_absence(self, order: Open) -> str:
        variants = [f'"{model.variant}"' for model in sorted(self.served) if model.id == order.model]
        if variants:
            return f'the model is served here as {" and ".join(variants)}, not "{order.variant}"'
        return f"model {order.model} is not served here"

    def _find_old(self, order: Open, model: ModelKey) -> HopSession | None:
        """The session's hop of an earlier attempt whose cache serves the new one as well."""
        for hop in self.hops_of(order.session):
            if (hop.model, hop.order.part) == (model, order.part):
                return hop
        return None

    def _make_room(self, model: ModelKey, needed: int, session: str) -> list[Effect]:
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

    def close(self, asker: Asker, message: Close, now: float) -> list[Effect]:
        """Free a session for its owner; late steps and opens of its attempts are refused for a minute."""
        effects: list[Effect] = []
        for hop in self.hops_of(message.session):
            if hop.owner == asker.node and hop.order.attempt <= message.attempt:
                effects += self.forget(hop)
        self._waiting = [
            waiting
            for waiting in self._waiting
            if (waiting.order.session, waiting.asker.node) != (message.session, asker.node)
        ]
        self._tombstones[message.session] = _Tombstone(message.attempt, now + CLOSED_SECONDS)
        if len(self._tombstones) > MOST_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]  # the oldest
        return effects

    def forget(self, hop: HopSession) -> list[Effect]:
        """Forget a session's hop, and its cache."""
        self._remove(hop)
        return [Forget(hop.model, hop.order.session, hop.part)]

    def link_up(self, node: str, now: float) -> list[Effect]:
        """Our data connection to a node is up: answer the opens that waited for it."""
        self.links.add(node)
        ready = [waiting for waiting in self._waiting if waiting.order.next == node]
        self._waiting = [waiting for waiting in self._waiting if waiting.order.next != node]
        return [effect for waiting in ready for effect in self.open(waiting.asker, waiting.order, waiting.tensor, now)]

    def link_down(self, node: str, tick: int) -> list[Effect]:
        """Our data connection to a node broke: clients whose chain goes on there should not hear of it a renewal later."""
        self.links.discard(node)
        return self._tell((hop for hop in self.sessions.values() if hop.order.next == node), tick)

    def tell_draining(self, tick: int) -> list[Effect]:
        """Clients whose sessions must leave hear of it now: they have little time to have another chain compute them."""
        return self._tell((hop for hop in self.sessions.values() if self._is_draining(hop)), tick)

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
            is_draining=any(self._is_draining(hop) for hop in hops),
        )

    def sweep(self, now: float) -> list[Effect]:
        """Free what expired."""
        effects: list[Effect] = []
        for hop in list(self.sessions.values()):
            if hop.lease < now or hop.used + IDLE_SECONDS < now:
                effects += self.forget(hop)
        for session, stone in list(self._tombstones.items()):
            if stone.until < now:
                del self._tombstones[session]
        late = [waiting for waiting in self._waiting if waiting.until < now]
        self._waiting = [waiting for waiting in self._waiting if waiting.until >= now]
        effects += [
            Answer(
                waiting.asker,
                refuse(waiting.order, "LINK_DOWN", f"no connection to the next hop, node {waiting.order.next}"),
            )
            for waiting in late
        ]
        return effects

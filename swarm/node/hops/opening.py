"""Who gets a session here: opens that are granted, refused or wait for a link, and closing. Pure.

Why one may not be opened is admission.py's affair; what is open is in sessions.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import RequestError
from swarm.messages.sessions import Close, Open, Opened, Refused
from swarm.messages.tensors import WireTensor, ids_of
from swarm.models import ModelKey
from swarm.node.batches import MOST_SESSIONS, ServedPart
from swarm.node.effects import Answer, DialData, Effect
from swarm.node.hops.admission import Request, judge, refuse
from swarm.node.hops.hop import LEASE_SECONDS, HopSession
from swarm.node.hops.sessions import SessionTable
from swarm.parts import parse_part
from swarm.wire.events import Asker

MOST_TOMBSTONES = 16_384
CLOSED_SECONDS = 60.0
LINK_SECONDS = 3.0


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


class Opening:
    """Opens sessions in a table, and closes them."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._waiting: list[_WaitingOpen] = []
        self._tombstones: dict[str, _Tombstone] = {}

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
        known = self._table.sessions.get((order.session, order.stage))
        if known is not None and known.order.attempt == order.attempt:
            if _asked_for(known.order) != _asked_for(order):
                return refuse(order, "BAD_MESSAGE", f'at this attempt "{known.part}" is open here'), []
            return None, [Answer(asker, self._opened(known))]  # asked twice, answered twice
        if order.next != self._table.node and order.next not in self._table.links:
            # Asked again meanwhile: one answer is enough.
            self._waiting = [
                one for one in self._waiting if (one.order.session, one.order.stage) != (order.session, order.stage)
            ]
            self._waiting.append(_WaitingOpen(asker, order, tensor, now + LINK_SECONDS))
            return None, [DialData(order.next)]
        return self._admit(request, old, now)

    def _admit(self, request: Request, old: HopSession | None, now: float) -> tuple[Refused | None, list[Effect]]:
        """Reserve KV, if there is room for it or can be made. old: what serves the new attempt as well."""
        order, served, needed = request.order, request.served, request.needed
        replaced = [one for one in (old, self._table.sessions.get((order.session, order.stage))) if one is not None]
        freed = sum(one.kv_bytes for one in {one.key: one for one in replaced}.values() if one.model == served.model)
        effects = self._table.make_room(served.model, needed - freed, order.session)
        free = self._table.kv_free(served.model) + freed
        if needed > free:
            message = f"{order.positions} positions need {needed:,} bytes of KV here, {max(free, 0):,} are free"
            return refuse(order, "KV_FULL", message, retry_seconds=1.0), effects
        hop = HopSession(
            order=order,
            owner=request.asker.node,
            model=served.model,
            part=request.part,
            lease=now + LEASE_SECONDS,
            used=now,
            kv_bytes=needed,
        )
        if old is not None:
            self._table.remove(old)
            hop.cached = hop.accepted = min(order.keep, old.cached)
        if hop.key in self._table.sessions:  # an earlier attempt had another part here
            effects += self._table.forget(self._table.sessions[hop.key])
        if order.tail is not None:
            assert request.tensor is not None
            ids = ids_of(request.tensor)
            known = len(ids) - order.tail.given
            hop.ids, hop.given = ids[:known], ids[known:]
            hop.have = len(hop.ids)
        self._table.add(hop)
        return None, [*effects, Answer(request.asker, self._opened(hop))]

    def _opened(self, hop: HopSession) -> Opened:
        order = hop.order
        return Opened(
            session=order.session,
            attempt=order.attempt,
            stage=order.stage,
            cached=hop.cached,
            is_draining=self._table.is_draining(hop),
        )

    def _request(
        self, asker: Asker, order: Open, tensor: WireTensor | None, served: ServedPart, goes_on: bool, now: float
    ) -> Request:
        """An open with what is known here that bears on it."""
        part = parse_part(order.part, served.layers)
        stone = self._tombstones.get(order.session)
        mine = self._table.hops_of(order.session)
        is_known = bool(mine) or any(one.order.session == order.session for one in self._waiting)
        return Request(
            asker=asker,
            order=order,
            part=part,
            tensor=tensor,
            served=served,
            mine=mine,
            goes_on=goes_on,
            draining=self._table.leaving.part_of(served.model),
            is_leaving=self._table.leaving.is_whole_node,
            is_closed=stone is not None and order.attempt <= stone.attempt and now < stone.until,
            has_place=is_known or len(self._table.sessions) + len(self._waiting) < MOST_SESSIONS,
            most_sessions=MOST_SESSIONS,
            needed=served.kv_bytes(part, order.positions),
            most_kv=min(served.kv_capacity, self._table.memory.most_kv_room(served.model, served.part)),
        )

    def _find_served(self, order: Open) -> ServedPart | None:
        """What an open asks for, in the variant that it asks for: of several, the first that has its part."""
        fitting = [
            served
            for model, served in sorted(self._table.served.items())
            if model.id == order.model and order.variant in ("", model.variant)
        ]
        complete = (one for one in fitting if one.part.covers(parse_part(order.part, one.layers)))
        return next(complete, fitting[0] if fitting else None)

    def _explain_absence(self, order: Open) -> str:
        variants = [f'"{model.variant}"' for model in sorted(self._table.served) if model.id == order.model]
        if variants:
            return f'the model is served here as {" and ".join(variants)}, not "{order.variant}"'
        return f"model {order.model} is not served here"

    def _find_old(self, order: Open, model: ModelKey) -> HopSession | None:
        """The session's hop of an earlier attempt whose cache serves the new one as well."""
        for hop in self._table.hops_of(order.session):
            if (hop.model, hop.order.part) == (model, order.part):
                return hop
        return None

    def close(self, asker: Asker, message: Close, now: float) -> list[Effect]:
        """Free a session for its owner; late steps and opens of its attempts are refused for a minute."""
        effects: list[Effect] = []
        for hop in self._table.hops_of(message.session):
            if hop.owner == asker.node and hop.order.attempt <= message.attempt:
                effects += self._table.forget(hop)
        self._waiting = [
            waiting
            for waiting in self._waiting
            if (waiting.order.session, waiting.asker.node) != (message.session, asker.node)
        ]
        self._tombstones[message.session] = _Tombstone(message.attempt, now + CLOSED_SECONDS)
        if len(self._tombstones) > MOST_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]  # the oldest
        return effects

    def link_up(self, node: str, now: float) -> list[Effect]:
        """Our data connection to a node is up: answer the opens that waited for it."""
        self._table.links.add(node)
        ready = [waiting for waiting in self._waiting if waiting.order.next == node]
        self._waiting = [waiting for waiting in self._waiting if waiting.order.next != node]
        return [effect for waiting in ready for effect in self.open(waiting.asker, waiting.order, waiting.tensor, now)]

    def sweep(self, now: float) -> list[Effect]:
        """Forget who was closed long ago, and refuse what has waited for a link too long."""
        for session, stone in list(self._tombstones.items()):
            if stone.until < now:
                del self._tombstones[session]
        late = [waiting for waiting in self._waiting if waiting.until < now]
        self._waiting = [waiting for waiting in self._waiting if waiting.until >= now]
        return [
            Answer(
                waiting.asker,
                refuse(waiting.order, "LINK_DOWN", f"no connection to the next hop, node {waiting.order.next}"),
            )
            for waiting in late
        ]


def _asked_for(order: Open) -> tuple[str, str, str]:
    return order.model, order.variant, order.part

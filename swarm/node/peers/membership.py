"""Who the peers are, what this node says of itself, and which part it claims.

Decides only. Claims follow swarm.plan: until the peers seen have held still for a second an unplaced node waits, then
takes its own row of the placement that every node computes alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from swarm.discovery.knocks import Knock, Knocks
from swarm.discovery.peers import PeerTable
from swarm.errors import RequestError
from swarm.messages.members import AskPeers, Beat, BeatAck, Capacity, Claim, Goodbye, PeerPage
from swarm.messages.sessions import Refused
from swarm.models import ModelKey
from swarm.node.effects import Answer, Dial, Effect, HangUp, SendPeer
from swarm.node.this_node import ThisNode
from swarm.parts import Part, parse_part
from swarm.plan.claims import Held, Placement, Seat, count_coverage, must_yield, place_one, take_up_again
from swarm.plan.figures import Published
from swarm.plan.placement import place_all
from swarm.plan.view import costs_of, read_views
from swarm.wire.events import Arrived, Asker, LinkDown, LinkFailed, LinkUp

BROWSE_SECONDS = 2.5
STILL_SECONDS = 1.0
PAGE_NODES = 16
MOST_QUIET = 1024
RTT_SHARE = 0.2
_ONLY_FOR_NODES = ("peers", "rtts", "rates")  # left out of pages for clients, or cut short


class Membership:
    """Peers, beats and claims of one node."""

    def __init__(self, me: ThisNode, addresses: Sequence[str], started: float) -> None:
        self.me = me
        self.local = {local.model: local for local in me.models}
        self.addresses = list(addresses)
        self.table = PeerTable()
        self.links: dict[str, str] = {}  # node → control address at which it answered
        self._started = started
        self._sequence = self._round = 0
        self._sent_at: dict[int, float] = {}
        self._rtts: dict[str, float] = {}
        self._link_seconds = Published()
        self._knocks = Knocks()
        self._own_addresses = set(addresses)
        self._quiet: dict[str, None] = {}  # addresses whose silence is no news: somebody was there once

    # Links ------------------------------------------------------------------------------------------------------------

    def start(self, peers: Sequence[str], remembered: Sequence[str], now: float) -> list[Effect]:
        """Knock where the user says, and where somebody answered in an earlier run."""
        self._hush(remembered)
        named = [knock for address in peers if self._is_other(address) for knock in self._knocks.name(address, now)]
        return [*_dials(named), *(effect for address in remembered for effect in self._see_vouched(address, now))]

    def see_advert(self, address: str, now: float) -> list[Effect]:
        """mDNS says that somebody listens at HOST:PORT."""
        return _dials(self._knocks.hint(address, now)) if self._is_other(address) else []

    def _see_vouched(self, address: str, now: float) -> list[Effect]:
        """A member says so."""
        return _dials(self._knocks.vouch(address, now)) if self._is_other(address) else []

    def spoil(self, model: ModelKey, part: Part) -> None:
        """Weights on this machine turn out to be damaged: they count as absent."""
        self.local[model] = self.local[model].without(part.cells)

    def is_news(self, address: str) -> bool:
        """Whether the user should hear that nobody answers there."""
        return address not in self._quiet

    def _hush(self, addresses: Iterable[str]) -> None:
        self._quiet |= dict.fromkeys(addresses)
        while len(self._quiet) > MOST_QUIET:
            del self._quiet[next(iter(self._quiet))]

    def _is_other(self, address: str) -> bool:
        return address not in self._own_addresses

    def link_up(self, event: LinkUp, now: float) -> list[Effect]:
        node = event.node
        self._hush([event.address])
        if node == self.me.node:
            self._own_addresses.add(event.address)
            self._knocks.forget(event.address, now)
            return [HangUp(event.address)]
        if self.links.setdefault(node, event.address) != event.address:
            # It answers at several addresses and one link is enough; should that one break, this may be dialled again.
            self._knocks.forget(event.address, now)
            return [HangUp(event.address)]
        return _dials(self._knocks.answered(event.address, now))

    def link_failed(self, event: LinkFailed, now: float) -> list[Effect]:
        return _dials(self._knocks.failed(event.address, now))

    def link_down(self, event: LinkDown, now: float) -> list[Effect]:
        """A control link broke: its node counts as dead until it is heard of again, perhaps at another address."""
        if self.links.get(event.node) != event.address:
            return []
        del self.links[event.node]
        self._rtts.pop(event.node, None)
        self._knocks.broke(event.address, now)
        self.table.mark_lost(event.node, now)
        addresses = self.table.addresses(event.node)
        return [effect for address in addresses for effect in self._see_vouched(address, now)]

    # Beats ------------------------------------------------------------------------------------------------------------

    def take_beat(self, arrived: Arrived, beat: Beat, now: float) -> list[Effect]:
        """A peer's word about itself; only its own key may give it."""
        if arrived.asker.node != beat.node or beat.node == self.me.node:
            return []
        try:
            for claim in beat.claims:
                parse_part(claim.part, claim.layers)
            for capacity in beat.capacities:
                costs_of(capacity)
        except RequestError as error:  # whoever plans with it later could do nothing about it
            return [Answer(arrived.asker, Refused(code="BAD_MESSAGE", message=str(error)))]
        self.table.apply(beat, now)
        effects: list[Effect] = [Answer(arrived.asker, BeatAck(sequence=beat.sequence))]
        if beat.node not in self.links:
            for address in beat.addresses:
                effects += self._see_vouched(address, now)
        if not beat.peers.keys() <= self.links.keys():  # most often there is nobody new among them
            for node, address in beat.peers.items():
                if node not in self.links and node not in self.table and node != self.me.node:
                    effects += self._see_vouched(address, now)
        return effects

    def take_ack(self, node: str, ack: BeatAck, now: float) -> None:
        sent = self._sent_at.get(ack.sequence)
        if sent is not None:
            self.note_rtt(node, now - sent)

    def note_rtt(self, node: str, seconds: float) -> None:
        """There and back took so long, for a beat or for a step."""
        if node in self.links:
            old = self._rtts.get(node, seconds)
            self._rtts[node] = old + RTT_SHARE * (seconds - old)

    def take_goodbye(self, arrived: Arrived, message: Goodbye, now: float) -> list[Effect]:
        """A node leaves: nobody knocks at its door any more, nor wonders that nobody opens."""
        if arrived.asker.node != message.node:
            return []
        self._hush(self.table.addresses(message.node))
        self.table.say_goodbye(message.node, message.incarnation, now)
        address = self.links.pop(message.node, None)
        if address is None:
            return []
        self._rtts.pop(message.node, None)
        self._knocks.forget(address, now)
        return [HangUp(address)]

    def make_beat(
        self,
        tick: int,
        memory_free: int,
        claims: Sequence[Claim],
        capacities: Sequence[Capacity],
        intent: Part,
        rates: Mapping[str, int],
        *,
        is_leaving: bool,
        **counters: int,
    ) -> Beat:
        """What this node says of itself now. Every beat made has a number of its own, or peers would drop it as old."""
        self._sequence += 1
        return Beat(
            node=self.me.node,
            incarnation=self.me.incarnation,
            sequence=self._sequence,
            round=self._round,
            name=self.me.name,
            addresses=self.addresses[:8],
            device=self.me.device,
            machine=self.me.machine,
            memory_budget=self.me.budget,
            memory_total=self.me.memory_total,
            memory_free=memory_free,
            tick=tick,
            layer_seconds=max((claim.layer_seconds for claim in claims), default=0.0),
            claims=list(claims),
            capacities=list(capacities),
            intent=str(intent),
            link_seconds=self._link_seconds.value,
            leaving=is_leaving,
            rtts={node: round(rtt, 5) for node, rtt in sorted(self._rtts.items())[:512] if node in self.links},
            rates=dict(list(rates.items())[:512]),
            peers=dict(sorted(self.links.items())[:512]),
            **counters,
        )

    def begin_round(self) -> None:
        """A second has passed: what is said from now on, everyone hears."""
        self._round += 1

    def beat(self, beat: Beat, now: float) -> list[Effect]:
        """Send a beat to every peer, and go on looking for those that are not there."""
        self._sent_at = {number: at for number, at in self._sent_at.items() if at > now - 10}
        self._sent_at[beat.sequence] = now
        if self._rtts:
            self._link_seconds.note(median(self._rtts.values()) / 2)
        return [*_dials(self._knocks.advance(now)), *(SendPeer(node, "control", beat) for node in sorted(self.links))]

    def page(self, asker: Asker, request: AskPeers, own: Beat, now: float) -> Effect:
        """A page of the peer table, this node included, without what only nodes need."""
        beats = sorted([own, *self.table.present(now)], key=lambda beat: beat.node)
        after = [beat for beat in beats if beat.node > request.after]
        return Answer(asker, PeerPage(nodes=[_trim(beat) for beat in after[:PAGE_NODES]], more=len(after) > PAGE_NODES))

    # Claims -----------------------------------------------------------------------------------------------------------

    def choose(self, placed: Mapping[ModelKey, Part], is_loading: bool, now: float) -> Placement | None:
        """The first claims to take up now; None to leave things as they are.

        placed: what is claimed so far, by model; is_loading: nothing of it is served yet, so that it may be given up.
        """
        if now - self.table.changed < STILL_SECONDS:
            return None
        if not placed:
            return None if now - self._started < BROWSE_SECONDS else self._first_claims(now)
        return self._yielding(placed, now) if is_loading else None

    @property
    def _seat(self) -> Seat:
        return Seat(self.me.node, self.me.budget, {model: local.costs for model, local in self.local.items()})

    def _first_claims(self, now: float) -> Placement | None:
        beats = self.table.live(now)
        seats = [self._seat]
        for beat in beats:
            if not beat.claims and beat.capacities:
                costs = {ModelKey(one.model, one.variant): costs_of(one) for one in beat.capacities}
                seats.append(Seat(beat.node, beat.capacities[0].budget_bytes, costs))
        layers = self._layers(beats)
        held = self._held(beats, layers)
        again = take_up_again(seats[0], self.me.served_before, count_coverage(held, layers))
        return again or place_all(seats, held, layers)[self.me.node] or None

    def _yielding(self, placed: Mapping[ModelKey, Part], now: float) -> Placement | None:
        """Another choice where a lower id holds the same cells while others are missing."""
        beats = self.table.live(now)
        layers = self._layers(beats)
        held = self._held(beats, layers)
        for model, part in placed.items():
            others = [(claim.node, claim.part) for claim in held if claim.model == model.id]
            if must_yield(self.me.node, part, others):
                placement = place_one(self._seat, count_coverage(held, layers))
                return None if placement == placed or not placement else placement
        return None

    def _layers(self, beats: Sequence[Beat]) -> dict[str, int]:
        layers = {claim.model: claim.layers for beat in beats for claim in beat.claims}
        layers |= {capacity.model: capacity.layers for beat in beats for capacity in beat.capacities}
        return layers | {local.model.id: local.costs.layers for local in self.local.values()}

    @staticmethod
    def _held(beats: Sequence[Beat], layers: Mapping[str, int]) -> list[Held]:
        return [
            Held(view.node, model, part)
            for model, depth in layers.items()
            for view in read_views(beats, model, depth)
            if not (part := view.part("loading", "serving")).is_empty()
        ]


def _dials(knocks: Sequence[Knock]) -> list[Effect]:
    return [HangUp(knock.address) if knock.is_over else Dial(knock.address) for knock in knocks]


def _trim(beat: Beat) -> Beat:
    return Beat(
        **{name: getattr(beat, name) for name in beat.__struct_fields__ if name not in _ONLY_FOR_NODES},
        rtts=dict(list(beat.rtts.items())[:16]),
        rates=dict(list(beat.rates.items())[:16]),
    )

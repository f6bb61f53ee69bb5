"""The client's I/O thread: owns the sockets and the peer table, runs the conversations' machines, carries questions.

Other threads hand it things to do; it hands events back through each session's sink.
"""

from __future__ import annotations

import bisect
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import zmq

from swarm.client.calls import Answer, Call, Calls
from swarm.client.chain import needed_links
from swarm.client.effects import Connect, Effect, Send
from swarm.client.generation import GenerationMachine
from swarm.client.news import Failed, News
from swarm.client.route_view import RouteView
from swarm.discovery.knocks import Knock, Knocks
from swarm.discovery.lan import Advert
from swarm.discovery.peers import PeerTable
from swarm.errors import SwarmError
from swarm.keys import Identity, SwarmKeys
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.members import AskPeers, Beat, Hello, PeerPage
from swarm.messages.tensors import WireTensor
from swarm.wire.dialer import Dialer
from swarm.wire.events import LinkDown, LinkEvent, LinkFailed, LinkMessage, LinkRefused, LinkUp
from swarm.wire.inbox import Inbox
from swarm.wire.polling import Polling

TICK_SECONDS = 0.1
REFRESH_SECONDS = 1.0
ROUTELESS_REFRESH_SECONDS = 0.25  # while a session waits for a chain
MOST_NOTED = 256  # foreign swarms, addresses where nobody answers, and those of nodes that did: there may be any number

log = logging.getLogger(__name__)

Command = Callable[[float], None]
Sink = Callable[[News], None]


class ClientLoop:
    """Runs on a thread of its own between `start` and `stop`."""

    def __init__(
        self, keys: SwarmKeys, identity: Identity, peers: Sequence[str], remembered: Sequence[str] = ()
    ) -> None:
        """peers: HOST:PORT that the user named; remembered: others worth a try, whose silence means nothing."""
        self._keys = keys
        self._node = identity.node
        self._peers = peers
        self._remembered = [address for address in remembered if address not in peers]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        hello = Hello(node=identity.node, kind="client", incarnation=time.time_ns() // 1_000_000)
        self._inbox: Inbox[Command] = Inbox()
        self._polling = Polling(self._inbox.descriptor)
        self._dialer = Dialer(self._context, self._polling, keys, identity, hello)
        self._table = PeerTable()
        self._knocks = Knocks()
        self._generations: dict[GenerationMachine, Sink] = {}
        self._calls = Calls(lambda node, message: self._dialer.send(node, "control", message))
        self._up: set[tuple[str, Channel]] = set()
        self._lost: dict[str, int] = {}  # nodes whose control link broke or was refused: node → incarnation then
        self._refreshed_at = float("-inf")
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="client", daemon=True)
        self.changed = threading.Condition()
        self.beats: Sequence[Beat] = ()
        self._route_view = RouteView()
        self.failures: dict[str, str] = {}
        self.reached: list[str] = []  # addresses at which nodes answered
        self.foreign_tags: set[str] = set()
        self.was_member = bool(remembered)  # nodes with this secret have answered before, or announce themselves

    # From other threads -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close every session and end."""
        self._inbox.put(self._stop)
        self._thread.join(timeout=5.0)

    def see_advert(self, advert: Advert) -> None:
        self._inbox.put(lambda now: self._take_advert(advert, now))

    def ask(
        self, node: str, message: AnyMessage, matches: Callable[[AnyMessage], bool], seconds: float
    ) -> Answer | None:
        """The first answer that `matches`; None if it does not come in time."""
        reply: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        call = Call(node, message, matches, reply, time.monotonic() + seconds)
        self._inbox.put(lambda now: self._take_call(call, now))
        try:
            return reply.get(timeout=seconds)
        except queue.Empty:
            return None

    def order(self, machine: GenerationMachine, sink: Sink, act: Callable[[float], list[Effect]]) -> None:
        """Do something with a machine; what comes of it for its user goes to `sink`, on the I/O thread."""
        self._inbox.put(lambda now: self._take_order(machine, sink, act, now))

    # On the I/O thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        next_tick = time.monotonic()
        for address in self._peers:
            self._knock(self._knocks.name(address, next_tick), next_tick)
        for address in self._remembered:
            self._knock(self._knocks.vouch(address, next_tick), next_tick)
        while not self._is_stopping:
            self._polling.follow(self._dialer.changes, lambda: self._dialer.sockets)
            ready = self._polling.wait(next_tick - time.monotonic())
            try:
                now = time.monotonic()
                self._take(ready, now)
                if now >= next_tick:
                    next_tick = now + TICK_SECONDS
                    self._tick(now)
            except Exception:  # the I/O loop must outlive any one event
                log.exception("client event failed")
        self._dialer.close()
        self._context.term()
        self._polling.close()
        self._inbox.close()

    def _take(self, ready: set[object], now: float) -> None:
        for source in ready:
            if source == self._inbox.descriptor:
                for command in self._inbox.take():
                    self._do(command, now)
            else:
                for event in self._dialer.receive(source, now):
                    self._handle(event, now)

    def _do(self, command: Command, now: float) -> None:
        """What one caller wants must not cost the others theirs."""
        try:
            command(now)
        except Exception:
            log.exception("client command failed")

    def _tick(self, now: float) -> None:
        for event in self._dialer.check_deadlines(now):
            self._handle(event, now)
        is_waiting = any(session.phase == "routing" for machine in self._generations for session in machine.sessions)
        if now - self._refreshed_at >= (ROUTELESS_REFRESH_SECONDS if is_waiting else REFRESH_SECONDS):
            self._knock(self._knocks.advance(now), now)
            self._refresh(now)
            self._table.forget_dead(now)
            self._lost = {node: lost for node, lost in self._lost.items() if node in self._table}
        self._calls.forget_late(now)
        for machine in list(self._generations):
            if machine.phase == "over":
                del self._generations[machine]  # its next turn, if there is one, brings it back
            else:
                self._perform(machine, machine.tick(now), now)

    def _refresh(self, now: float) -> None:
        """Ask one node that is up for the peer table; any will do, and the next one is asked if it is gone.

        Clients begin at different ones, each at the next above its own id.
        """
        self._refreshed_at = now
        nodes = sorted(node for node, channel in self._up if channel == "control")
        above = bisect.bisect(nodes, self._node)
        for node in nodes[above:] + nodes[:above]:
            if self._dialer.send(node, "control", AskPeers()):
                return

    def _stop(self, now: float) -> None:
        for machine in list(self._generations):
            self._perform(machine, machine.cancel(), now)
        self._is_stopping = True

    def _take_advert(self, advert: Advert, now: float) -> None:
        if advert.tag != self._keys.tag:
            if len(self.foreign_tags) < MOST_NOTED and not advert.is_demo:
                self.foreign_tags.add(advert.tag)
            return
        self.was_member = True
        if (advert.node, "control") not in self._up:
            for address in advert.addresses:
                self._knock(self._knocks.hint(address, now), now)

    def _knock(self, knocks: Sequence[Knock], now: float) -> None:
        for knock in knocks:
            if knock.is_over:
                self._dialer.give_up(knock.address)
                if any(channel == "control" for _, channel in self._up):
                    self._knocks.leave_to_others(knock.address)
            else:
                self._dialer.dial(knock.address, "control", now)

    def _take_call(self, call: Call, now: float) -> None:
        if not self._calls.begin(call):
            self._connect(call.node, "control", now)

    def _take_order(
        self, machine: GenerationMachine, sink: Sink, act: Callable[[float], list[Effect]], now: float
    ) -> None:
        if machine not in self._generations:
            for node, channel in self._up:
                machine.link_up(node, channel, now)
            for node, channel in {*machine.lead.links} - self._up:
                machine.link_down(node, channel, now)  # it broke while this conversation rested
            for node in self._lost:
                machine.link_down(node, "control", now)
        self._generations[machine] = sink
        machine.see(self._route_view)
        try:
            self._perform(machine, act(now), now)
        except Exception as error:  # a fault of ours: whoever waits for the answer must hear that there is none
            sink(Failed(SwarmError(f"this is a fault in the client: {type(error).__name__}: {error}")))
            raise

    def _handle(self, event: LinkEvent, now: float) -> None:
        match event:
            case LinkUp(node, channel, address):
                self._link_up(node, channel, address, now)
            case LinkDown(node, channel):
                self._up.discard((node, channel))
                if channel == "control":
                    self._lose(node)
                    self._table.mark_lost(node, now)
                    self._show_table(now)
                    self._refresh(now)  # others may have come that can do its work
                    self._knocks.broke(event.address, now)
                for machine in self._generations:
                    machine.link_down(node, channel, now)
            case LinkRefused(address, channel, node):
                self._refused(node or self._only_node_at(address), channel, address, now)
            case LinkFailed(address, channel, reason):
                if channel == "control":
                    self._knock(self._knocks.failed(address, now), now)
                if address not in self._remembered and len(self.failures) < MOST_NOTED:
                    with self.changed:
                        self.failures[address] = reason
                        self.changed.notify_all()
            case LinkMessage(node, _, message, tensor):
                self._receive(node, message, tensor, now)

    def _only_node_at(self, address: str) -> str:
        """The node that is at this address and nowhere else; "" if there is none."""
        return next((beat.node for beat in self.beats if beat.addresses == [address]), "")

    def _lose(self, node: str) -> None:
        """It is left out of chains until a connection to it is made again."""
        self._lost.setdefault(node, next((beat.incarnation for beat in self.beats if beat.node == node), -1))

    def _refused(self, node: str, channel: Channel, address: str, now: float) -> None:
        is_old = channel == "data" and self._dialer.data_address(node) not in (None, address)  # it is elsewhere now
        if node and (node, channel) not in self._up and not is_old:
            if channel == "control":
                self._lose(node)
            for machine in list(self._generations):
                self._perform(machine, machine.link_refused(node, channel, now), now)

    def _link_up(self, node: str, channel: Channel, address: str, now: float) -> None:
        self.failures.pop(address, None)
        self._up.add((node, channel))
        if channel == "control":
            self._lost.pop(node, None)
            self._table.mark_found(node)
            self._knock(self._knocks.answered(address, now), now)
            self.reached = [*(known for known in self.reached if known != address), address][-MOST_NOTED:]
            self._dialer.send(node, "control", AskPeers())
            self._calls.link_up(node)
            if self._wants_data(node):
                self._connect(node, "data", now)
        for machine in list(self._generations):
            self._perform(machine, machine.link_up(node, channel, now), now)

    def _wants_data(self, node: str) -> bool:
        return any(
            (node, "data") in needed_links(session.route)
            for machine in self._generations
            for session in machine.sessions
        )

    def _connect(self, node: str, channel: Channel, now: float) -> None:
        if channel == "data":
            address = self._dialer.data_address(node)
            if address is not None:
                self._dialer.dial(address, "data", now)
            return  # else it is dialled once the control link says where
        for beat in self.beats:
            if beat.node == node:
                for address in beat.addresses:
                    self._dialer.dial(address, "control", now)

    def _receive(self, node: str, message: AnyMessage, tensor: WireTensor | None, now: float) -> None:
        if isinstance(message, PeerPage):
            self._take_page(node, message, now)
            return
        if self._calls.answer(node, message, tensor):
            return
        session = getattr(message, "session", "")
        for machine in self._generations:
            if machine.has(session):
                self._perform(machine, machine.receive(node, session, message, now), now)
                return

    def _take_page(self, node: str, page: PeerPage, now: float) -> None:
        for beat in page.nodes:
            self._table.hear_of(beat, now)
        again = [beat.node for beat in page.nodes if self._lost.get(beat.node, beat.incarnation) != beat.incarnation]
        if page.more and page.nodes:
            self._dialer.send(node, "control", AskPeers(after=page.nodes[-1].node))
        self._show_table(now)
        for node in again:  # a new process, perhaps at another address
            del self._lost[node]
            self._connect(node, "control", now)

    def _show_table(self, now: float) -> None:
        with self.changed:
            self.beats = self._table.live(now)
            self._route_view = RouteView(self.beats)
            self.changed.notify_all()
        for machine in self._generations:
            machine.see(self._route_view)

    def _perform(self, machine: GenerationMachine, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Send(node, channel, message, tensor):
                    self._dialer.send(node, channel, message, tensor)
                case Connect(node, channel):
                    self._connect(node, channel, now)
                case _:
                    self._generations[machine](effect)

"""A running node: the I/O loop that feeds the machine events and performs its effects.

One thread polls every socket and never blocks; the compute thread computes; zeroconf keeps threads of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from swarm.discovery.lan import Advert, Lan
from swarm.discovery.remembered import read_remembered, remember
from swarm.keys import Identity, SwarmKeys
from swarm.messages.files import FileChunk, ModelCard
from swarm.messages.members import Hello
from swarm.messages.sessions import Refused
from swarm.messages.tensors import WireTensor
from swarm.models import ModelKey
from swarm.node.compute.protocol import EngineLoader
from swarm.node.compute.thread import ComputeThread
from swarm.node.compute.verifier import Catalogue, Verifier
from swarm.node.effects import (
    Advertise,
    Answer,
    AnswerFile,
    AskCores,
    Dial,
    DialData,
    Effect,
    Exit,
    Forget,
    GiveCores,
    HangUp,
    LimitFrames,
    Load,
    Report,
    Run,
    SendClient,
    SendPeer,
    Unload,
)
from swarm.node.events import AddressSeen, CoresTaken, Event, PartLoaded, Started, StopAsked, Ticked
from swarm.node.machine import NodeMachine
from swarm.node.peers.membership import Membership
from swarm.node.shell.cores import Cores
from swarm.node.this_node import ThisNode
from swarm.parts import Part
from swarm.wire.codec import FRAME_LIMIT
from swarm.wire.dialer import Dialer
from swarm.wire.events import LinkUp
from swarm.wire.inbox import Inbox
from swarm.wire.listener import Listener
from swarm.wire.polling import Polling

TICK_SECONDS = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What the command line decides."""

    hosts: Sequence[str]
    port: int
    peers: Sequence[str] = ()
    use_mdns: bool = True
    placement: Mapping[ModelKey, Part] = field(default_factory=dict[ModelKey, Part])
    remembered_peers: Path | None = None  # file that keeps addresses of peers between runs
    is_demo: bool = False


class NodeProcess:
    """Sockets, threads and files of one node."""

    def __init__(
        self,
        settings: NodeSettings,
        keys: SwarmKeys,
        identity: Identity,
        me: ThisNode,
        cards: Mapping[str, ModelCard],
        documents: Mapping[str, Path],
        make_loader: Callable[[Callable[[], None]], EngineLoader],
        report: Callable[[Report], None],
        cores: Cores,
        catalogues: Mapping[ModelKey, Catalogue] | None = None,
    ) -> None:
        """cards: by model id; documents: files that clients may fetch, by sha256; report: tells the user.

        catalogues: of files to be verified once they are loaded.

        Raises RequestError if no port is free.
        """
        self._settings = settings
        self._keys = keys
        self._documents = documents
        self._report = report
        self._cores = cores
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox: Inbox[Event] = Inbox()
        self._polling = Polling(self._inbox.descriptor)
        self._listener = Listener(self._context, self._polling, settings.hosts, settings.port, keys)
        hello = Hello(node=identity.node, kind="node", incarnation=me.incarnation)
        self._dialer = Dialer(self._context, self._polling, keys, identity, hello)
        self._compute = ComputeThread(make_loader, self._inbox.put, cores.are_used)
        self._verifier = Verifier(catalogues or {}, self._inbox.put)
        self.machine = NodeMachine(Membership(me, self._listener.addresses, time.monotonic()), cards)
        self._lan: Lan | None = None
        self._me = me
        self._exit_code: int | None = None
        self._peer_addresses: dict[str, None] = {}

    @property
    def addresses(self) -> list[str]:
        return self._listener.addresses

    def ask_stop(self) -> None:
        """From a signal handler or another thread: leave politely; asked twice, leave now."""
        self._inbox.put(StopAsked())

    def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        self._compute.start()
        self._verifier.start()
        self._start_lan()
        path = self._settings.remembered_peers
        remembered = [] if path is None else read_remembered(path)
        started = Started(self._listener.data_port, self._settings.placement, self._settings.peers, remembered)
        self._handle(started)
        next_tick = time.monotonic()
        try:
            while self._exit_code is None:
                now = time.monotonic()
                if now >= next_tick:
                    next_tick = now + TICK_SECONDS
                    for event in self._dialer.check_deadlines(now):
                        self._handle(event)
                    tick = Ticked(self._compute.tick, self._listener.penalties.total, self._compute.caches)
                    self._handle(tick)
                self._wait_and_take(next_tick - time.monotonic())
        finally:
            self._close()
        return self._exit_code

    def _wait_and_take(self, seconds: float) -> None:
        """Wait for input and handle it all."""
        self._polling.follow(self._dialer.changes, lambda: [*self._listener.sockets, *self._dialer.sockets])
        for source in self._polling.wait(seconds):
            try:
                self._take(source)
            except Exception:  # the I/O loop must outlive any one message
                log.exception("input failed")

    def _take(self, source: object) -> None:
        if source == self._inbox.descriptor:
            for event in self._inbox.take():
                self._handle(event)
        elif source in self._listener.sockets:
            arrived = self._listener.receive(source, time.monotonic())
            if arrived is not None:
                self._handle(arrived)
        else:
            for event in self._dialer.receive(source, time.monotonic()):
                self._handle(event)

    def _handle(self, event: Event) -> None:
        try:
            if isinstance(event, LinkUp) and event.channel == "control":
                self._peer_addresses[event.address] = None
            elif isinstance(event, PartLoaded):
                self._verifier.verify(event.served.model, event.served.part)
            for effect in self.machine.handle(event, time.monotonic()):
                self._perform(effect)
        except Exception:  # the I/O loop must outlive any one event
            log.exception("event failed type=%s", type(event).__name__)

    def _perform(self, effect: Effect) -> None:
        match effect:  # what a decode step passes through comes first
            case SendPeer(node, channel, message, tensor):
                self._dialer.send(node, channel, message, tensor)
            case Run() | Forget() | Load() | Unload():
                self._compute.give(effect)
            case AskCores():
                if self._cores.take(lambda: self._inbox.put(CoresTaken(was_contended=True))):
                    self._handle(CoresTaken())
            case GiveCores():
                self._cores.give()
            case SendClient(node, message, channel):
                self._listener.send(node, channel, message)
            case Answer(asker, message, tensor):
                self._listener.answer(asker, message, tensor)
            case AnswerFile():
                self._answer_file(effect)
            case Dial(address):
                self._dialer.dial(address, "control", time.monotonic())
            case DialData(node):
                self._dial_data(node)
            case LimitFrames(node, most):
                self._dialer.limit_frames(node, most)
            case HangUp(address):
                self._dialer.give_up(address)
            case Advertise():
                self._advertise(effect)
            case Report():
                self._report(effect)
            case Exit(code):
                self._exit_code = code

    def _dial_data(self, node: str) -> None:
        address = self._dialer.data_address(node)
        if address is not None:
            self._dialer.dial(address, "data", time.monotonic())

    def _answer_file(self, request: AnswerFile) -> None:
        path = self._documents.get(request.digest)
        if path is None:
            self._listener.answer(request.asker, Refused(code="UNKNOWN_MODEL", message="no document with that digest"))
            return
        with path.open("rb") as file:
            total = file.seek(0, 2)
            file.seek(request.offset)
            data = file.read(FRAME_LIMIT)
        chunk = FileChunk(digest=request.digest, offset=request.offset, total=total)
        self._listener.answer(request.asker, chunk, WireTensor("uint8", (len(data),), data))

    # mDNS and remembered peers ----------------------------------------------------------------------------------------

    def _start_lan(self) -> None:
        if not self._settings.use_mdns:
            return
        try:
            self._lan = Lan(self._settings.hosts)
        except OSError as error:
            self._report(Report("no-mdns", {"message": str(error)}))
            return
        self._lan.browse(self._see_advert)

    def _see_advert(self, advert: Advert) -> None:
        if advert.tag == self._keys.tag and advert.node != self._me.node:
            for address in advert.addresses:
                self._inbox.put(AddressSeen(address))

    def _advertise(self, effect: Advertise) -> None:
        if self._lan is not None:
            self._lan.advertise(
                Advert(
                    node=self._me.node,
                    name=self._me.name,
                    addresses=tuple(self.addresses),
                    tag=self._keys.tag,
                    memory_free=effect.memory_free,
                    model=effect.model,
                    part=effect.part,
                    is_demo=self._settings.is_demo,
                )
            )

    def _close(self) -> None:
        if self._settings.remembered_peers is not None:
            remember(self._settings.remembered_peers, self._peer_addresses)
        self._verifier.stop()
        self._compute.stop()
        if self._lan is not None:
            self._lan.close()
        self._dialer.close()
        self._listener.close()
        self._context.term()
        self._polling.close()
        self._inbox.close()

"""A swarm in one thread under one seeded clock: the real machines on a network that loses, delays, repeats and reorders.

Runs the decision code of nodes and clients as it is, with integer-model engines. Checks safety at every delivery: a client
gets each token once, in order, and the right one. A failing seed can be run again and does the same.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from swarm.client.effects import Send as ClientSend
from swarm.client.generation import GenerationMachine
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.members import AskPeers, Beat, PeerPage, Welcome
from swarm.messages.tensors import WireTensor
from swarm.models import ModelKey
from swarm.node.batches import Batch
from swarm.node.effects import (
    Answer,
    AskCores,
    Dial,
    DialData,
    Effect,
    Exit,
    Forget,
    GiveCores,
    HangUp,
    Load,
    Run,
    SendClient,
    SendPeer,
    Unload,
)
from swarm.node.events import BatchDone, BatchFailed, CoresTaken, Event, PartLoaded, Started, StopAsked, Ticked
from swarm.node.machine import NodeMachine
from swarm.node.peers.membership import Membership
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import NOTHING, Part, join_parts, parse_part, whole
from swarm.plan.claims import CellCosts
from swarm.plan.view import read_views
from swarm.testing.clients import SimulatedClient
from swarm.testing.connections import Connections, Link
from swarm.testing.integer_model import KV_LAYER_BYTES, MODEL_ID, MODEL_KEY, IntegerEngine, IntegerModel
from swarm.testing.network import Network, Weather
from swarm.testing.promises import BrokenPromiseError, check_drop, check_fences, check_present
from swarm.testing.shared_cores import SharedCores
from swarm.wire.events import Arrived, Asker, LinkDown, LinkMessage, LinkUp

TICK_SECONDS = 0.2
CLIENT_TICK_SECONDS = 0.1
LAYER_BYTES = 100
LOAD_SECONDS = 0.05
NOTICED_SECONDS = 6.0  # until everyone knows that a node is gone


@dataclass(slots=True)
class _Node:
    machine: NodeMachine
    address: str
    speed: float
    start: Callable[[], None]  # again, as a new process of the same name
    engine: IntegerEngine | None = None
    is_up: bool = True
    tick: int = 0
    stalled_until: float = 0.0  # nothing is handled before
    stuck_until: float = 0.0  # nothing is computed before
    clock_ahead: float = 0.0
    fails: Callable[[Batch], bool] = lambda batch: False  # whether a batch cannot be computed
    load_seconds: float = LOAD_SECONDS
    cores: SharedCores = field(default_factory=SharedCores)
    kind: str = ""  # of processor


class Simulation:
    """Nodes, clients, a clock and a network."""

    def __init__(self, seed: int, model: IntegerModel, weather: Weather, kv_capacity: int = 1 << 30) -> None:
        """kv_capacity: bytes of KV that each node has."""
        self.seed = seed
        self.kv_capacity = kv_capacity
        self.now = 0.0
        self.model = model
        self.rng = random.Random(seed)
        self.network = Network(self.rng, weather)
        self._connections = Connections(self.network, self)
        self.nodes: dict[str, _Node] = {}
        self.clients: dict[str, SimulatedClient] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._moved_at = 0.0
        self._ended: dict[str, float] = {}

    # Building ---------------------------------------------------------------------------------------------------------

    def add_node(
        self,
        part: str | None = None,
        budget_layers: int = 0,
        speed: float = 1.0,
        beside: str | None = None,
        present: str = "f",
    ) -> str:
        """A node that starts now, with a part of its own or room for so many layers, `speed` times as fast as others.

        beside: a node on whose machine it runs, too. present: what it has the weights of.
        """
        name = f"{self.rng.getrandbits(64):016x}"
        address = f"10.0.0.{len(self.nodes) + 1}:7700"
        shared = None if beside is None else self.nodes[beside]
        cores = SharedCores() if shared is None else shared.cores
        machine = name if shared is None else shared.machine.membership.me.machine

        def make() -> NodeMachine:
            return self._make_machine(name, address, budget_layers, present, machine)

        self._start(name, address, speed, make, part, cores)
        return name

    def _make_machine(self, name: str, address: str, budget_layers: int, present: str, machine: str) -> NodeMachine:
        layers = self.model.layers
        absent = frozenset((whole(layers) - parse_part(present, layers)).cells)
        costs = CellCosts(layers, 0, LAYER_BYTES, 0, absent)
        me = ThisNode(
            node=name,
            incarnation=int(self.now * 1000) + 1,
            name=name[:4],
            device="cpu",
            memory_total=1 << 30,
            budget=budget_layers * LAYER_BYTES,
            machine=machine,
            models=(LocalModel(MODEL_KEY, "integers", costs, KV_LAYER_BYTES),),
        )
        return NodeMachine(Membership(me, [address], self.now), {MODEL_ID: self.model.card})

    def _start(
        self,
        name: str,
        address: str,
        speed: float,
        make: Callable[[], NodeMachine],
        part: str | None,
        cores: SharedCores,
    ) -> None:
        node = _Node(make(), address, speed, lambda: self._start(name, address, speed, make, part, cores), cores=cores)
        self.nodes[name] = node
        placement: dict[ModelKey, Part] = {} if part is None else {MODEL_KEY: parse_part(part, self.model.layers)}
        peers = [other.address for other_name, other in self.nodes.items() if other_name != name]
        self.after(0.0, lambda: self._feed(node, Started(7701, placement, peers)))
        self.after(self.rng.random() * TICK_SECONDS, lambda: self._tick(node))
        self._connections.mend(name)

    def ask(self, prompt: Sequence[int], count: int, wait_seconds: float = 0.0, *, stays: bool = False) -> str:
        """A client that asks a question now. stays: it keeps its session when it has been answered, for another one."""
        machine = GenerationMachine(
            self.model.card, lambda: f"{self.rng.getrandbits(128):032x}", self.rng.random(), wait_seconds
        )
        name = f"{self.rng.getrandbits(64):016x}"
        client = self.clients[name] = SimulatedClient(name, machine, self)
        client.ask(prompt, self.model.answer(prompt, count))
        self.after(CLIENT_TICK_SECONDS, lambda: self._tick_client(client, stays=stays))
        return name

    # Faults -----------------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """The process is gone; connections to it reset."""
        self._end(name)

    def restart(self, name: str) -> None:
        """A new process takes the place of one that is gone."""
        if not self.nodes[name].is_up:
            self.nodes[name].start()

    def stop(self, name: str) -> None:
        """SIGTERM."""
        self._ended[name] = self.now
        self._feed(self.nodes[name], StopAsked())

    def stall(self, name: str, seconds: float) -> None:
        """SIGSTOP: what comes waits."""
        self.nodes[name].stalled_until = self.now + seconds

    def stick(self, name: str, seconds: float) -> None:
        """The compute thread hangs; everything else goes on."""
        self.nodes[name].stuck_until = self.now + seconds

    def fail(self, name: str, seconds: float) -> None:
        """No batch can be computed there, as without memory; everything else goes on."""
        until = self.now + seconds
        self.nodes[name].fails = lambda batch: self.now < until

    def tell(self, name: str, event: Event) -> None:
        """A node's shell has something to say."""
        self._feed(self.nodes[name], event)

    def jump_clock(self, name: str, seconds: float) -> None:
        """A node's monotonic clock leaps ahead, as after a suspended virtual machine."""
        self.nodes[name].clock_ahead += seconds

    def slow_disk(self, name: str, load_seconds: float) -> None:
        self.nodes[name].load_seconds = load_seconds

    def cut(self, left: str, right: str, *, one_way: bool = False) -> None:
        """Nothing passes any more, and neither is told until its heartbeats fail."""
        self.network.cut(left, right, one_way=one_way)
        self._connections.cut(left, right)

    def reset(self, left: str, right: str) -> None:
        """The connections between two break, and come back."""
        self._connections.reset(left, right)

    def heal(self) -> None:
        """All cables are whole again."""
        self.network.heal()
        self._connections.mend()

    def move(self, name: str, part: Part) -> None:
        """A node begins a move as if its view had told it to; it drops nothing that it sees nowhere else."""
        node = self.nodes[name]
        now = self.now + node.clock_ahead
        layers = self.model.layers
        peers = node.machine.membership.table.live(now)
        elsewhere = [view.part("serving") for view in read_views(peers, MODEL_ID, layers)]
        left = self.part_of(name) - part
        if node.is_up and node.stalled_until <= self.now and join_parts(elsewhere).covers(left):
            for effect in node.machine.moves.begin(MODEL_KEY, part, now):
                self._perform(node, effect)

    # Looking ----------------------------------------------------------------------------------------------------------

    def part_of(self, name: str) -> Part:
        """What a node serves."""
        claim = self.nodes[name].machine.claims.by_model.get(MODEL_KEY)
        return NOTHING if claim is None or not self.nodes[name].is_up else claim.serving

    def is_settled(self, seconds: float) -> bool:
        """Whether no node has begun or ended a load or a drain for so long."""
        return self.now - self._moved_at >= seconds

    def are_answered(self) -> bool:
        """Whether every client is done."""
        return all(client.is_done for client in self.clients.values())

    def check_answers(self) -> None:
        """Every client has had the whole of the right answer."""
        for client in self.clients.values():
            if client.error is not None or client.received != client.expected:
                raise BrokenPromiseError(self.seed, f"{len(client.received)} tokens, {client.error}")

    # Running ----------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass."""
        stop = self.now + seconds
        while self._events and self._events[0][0] <= stop and not until():
            self.now, _, act = heapq.heappop(self._events)
            act()
        if not until():
            self.now = stop

    def after(self, delay: float, act: Callable[[], None]) -> None:
        """Do something when so much time has passed."""
        heapq.heappush(self._events, (self.now + delay, next(self._order), act))

    def _tick(self, node: _Node) -> None:
        if not node.is_up:
            return
        if node.stuck_until <= self.now:
            node.tick += 1
        self._feed(node, Ticked(node.tick, 0))
        self.after(TICK_SECONDS, lambda: self._tick(node))

    def _tick_client(self, client: SimulatedClient, *, stays: bool) -> None:
        if stays or not client.is_done:
            client.tick()
            self.after(CLIENT_TICK_SECONDS, lambda: self._tick_client(client, stays=stays))

    def show_table(self, client: str) -> list[Beat]:
        """The peer table, as one node that a client reaches would give it."""
        for name, node in self.nodes.items():
            if _stays(node) and node.stalled_until <= self.now and self.network.is_whole(client, name):
                return [beat for beat in self._read_table(client, node) if not beat.leaving]
        return []

    def _read_table(self, client: str, node: _Node) -> list[Beat]:
        beats: list[Beat] = []
        own = node.machine.make_beat()
        while True:
            request = AskPeers(after=beats[-1].node if beats else "")
            asker = Asker(client, "control", b"")
            page = node.machine.membership.page(asker, request, own, self.now + node.clock_ahead)
            assert isinstance(page, Answer)
            assert isinstance(page.message, PeerPage)
            beats += page.message.nodes
            if not page.message.more:
                return beats

    def _feed(self, node: _Node, event: Event) -> None:
        """Have a node handle an event, now or once it no longer stalls."""
        if not node.is_up:
            return
        if node.stalled_until > self.now:
            self.after(node.stalled_until - self.now, lambda: self._feed(node, event))
            return
        for effect in node.machine.handle(event, self.now + node.clock_ahead):
            self._perform(node, effect)

    def _feed_named(self, name: str, event: Event) -> None:
        node = self.nodes.get(name)
        if node is not None:
            self._feed(node, event)

    def _send(self, source: str, target: str, act: Callable[[], None]) -> None:
        """Something crosses the network, perhaps."""
        for delay in self.network.delays():
            self.after(delay, lambda: act() if self.network.passes(source, target) else None)

    def _perform(self, node: _Node, effect: Effect) -> None:
        name = node.machine.node
        match effect:
            case SendPeer(target, channel, message, tensor):
                if self._connections.is_up(name, target, channel):
                    arrived = Arrived(Asker(name, channel, name.encode()), message, tensor)
                    self._send(name, target, lambda: self._feed_named(target, arrived))
            case Answer(asker, message, tensor):
                self._answer(name, asker, message, tensor)
            case SendClient(target, message):
                if target in self.clients:
                    self._send(name, target, lambda: self.clients[target].receive(name, message))
            case Dial(address):
                for target in self._nodes_at(address):
                    self._connections.dial(name, target, "control")
            case HangUp(address):
                for target in self._nodes_at(address):
                    self._connections.hang_up(name, target)
            case DialData(target):
                if target in self.nodes:
                    self._connections.dial(name, target, "data")
            case AskCores():
                node.cores.ask(name, lambda waited: self._take_cores(node, waited))
            case GiveCores():
                node.cores.give(name)
            case Run(batch):
                self._run_batch(node, batch)
            case Forget(_, session, part):
                if node.engine is not None:
                    node.engine.forget(session, part)
            case Load(_, part):
                check_present(self.seed, node.machine, part)
                self._moved_at = self.now
                self._drop(node, part)
                self.after(node.load_seconds, lambda: self._load(node, part))
            case Unload():
                self._drop(node, NOTHING)
                node.engine = None
            case Exit():
                self._end(name)
            case _:
                pass

    def _take_cores(self, node: _Node, has_waited: bool) -> None:
        if has_waited:
            self.after(0.0, lambda: self._feed(node, CoresTaken(was_contended=True)))
        else:
            self._feed(node, CoresTaken())

    def _run_batch(self, node: _Node, batch: Batch) -> None:
        if node.engine is None:
            self.after(0.0, lambda: self._feed(node, BatchFailed("nothing is loaded")))
            return
        if node.fails(batch):
            self.after(0.001, lambda: self._feed(node, BatchFailed("out of order")))
            return
        check_fences(self.seed, node.machine, batch)
        result = node.engine.run(batch)
        done = max(self.now + result.seconds, node.stuck_until)
        self.after(done - self.now, lambda: self._feed(node, BatchDone(result)))

    def _drop(self, node: _Node, part: Part) -> None:
        """A node gives up all that is not in `part`; those that began to leave a moment ago could not be missed yet."""
        others = [
            other.machine
            for name, other in self.nodes.items()
            if other is not node and (_stays(other) or self.now - self._ended[name] < NOTICED_SECONDS)
        ]
        if node.engine is not None and node.machine.sessions.served:
            check_drop(self.seed, node.machine, node.engine.served.part, part, others)

    def _load(self, node: _Node, part: Part) -> None:
        if not node.is_up:
            return
        self._moved_at = self.now
        model = replace(
            self.model,
            layer_seconds=self.model.layer_seconds / node.speed,
            end_seconds=self.model.end_seconds / node.speed,
            kind=node.kind,
        )
        node.engine = IntegerEngine(model, part, self.kv_capacity, pause=lambda seconds: None, old=node.engine)
        self._feed(node, PartLoaded(node.engine.served))

    # Connections ------------------------------------------------------------------------------------------------------

    def _nodes_at(self, address: str) -> list[str]:
        return [name for name, node in self.nodes.items() if node.address == address]

    def is_listening(self, name: str) -> bool:
        """Whether there is a node of that name now."""
        return name in self.nodes and self.nodes[name].is_up

    def link_up(self, link: Link) -> None:
        """Tell whoever dialled."""
        source, target, channel = link
        node = self.nodes[target]
        if source in self.clients:
            self.clients[source].link_up(target, channel)
        else:
            welcome = Welcome(
                node=target, incarnation=node.machine.membership.me.incarnation, name=target[:4], data_port=7701
            )
            self._feed_named(source, LinkUp(target, channel, node.address, welcome))

    def link_down(self, link: Link) -> None:
        """Likewise."""
        source, target, channel = link
        if source in self.clients:
            self.clients[source].link_down(target, channel)
        elif target in self.nodes:
            self._feed_named(source, LinkDown(target, channel, self.nodes[target].address))

    def link_refused(self, link: Link) -> None:
        """Nodes make nothing of it."""
        source, target, channel = link
        if source in self.clients:
            self.clients[source].link_refused(target, channel)

    def _end(self, name: str) -> None:
        self.nodes[name].is_up = False
        self.nodes[name].cores.end(name)
        self._ended[name] = self.now
        self._moved_at = self.now
        self._connections.end(name, (*self.nodes, *self.clients))

    def _answer(self, name: str, asker: Asker, message: AnyMessage, tensor: WireTensor | None) -> None:
        if asker.node in self.clients:
            self._send(name, asker.node, lambda: self.clients[asker.node].receive(name, message))
        elif asker.node in self.nodes:
            event = LinkMessage(name, asker.channel, message, tensor)
            self._send(name, asker.node, lambda: self._feed_named(asker.node, event))

    # Clients ----------------------------------------------------------------------------------------------------------

    def send_from(self, client: str, sent: ClientSend) -> None:
        """A client's message to a node."""
        arrived = Arrived(Asker(client, sent.channel, client.encode()), sent.message, sent.tensor)
        self._send(client, sent.node, lambda: self._feed_named(sent.node, arrived))

    def connect_from(self, client: str, target: str, channel: Channel) -> None:
        """A client's connection to a node, which takes its time."""
        self._connections.dial(client, target, channel)


def _stays(node: _Node) -> bool:
    return node.is_up and not node.machine.is_leaving

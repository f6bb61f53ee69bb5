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

from swarm.client.effects import Connect, Delivered, Failed, Finished
from swarm.client.effects import Effect as ClientEffect
from swarm.client.effects import Send as ClientSend
from swarm.client.session import SessionMachine, Turn
from swarm.messages import AnyMessage, AskPeers, Channel, PeerPage, Sampling, Welcome, WireTensor
from swarm.node.effects import (
    Answer,
    AskTurn,
    Dial,
    DialData,
    Effect,
    Exit,
    Forget,
    Load,
    Run,
    SendClient,
    SendPeer,
    Unload,
)
from swarm.node.machine import BatchDone, Event, NodeMachine, PartLoaded, Started, StopAsked, Ticked, TurnTaken
from swarm.node.membership import LocalModel, Membership, Self
from swarm.parts import NOTHING, Part, parse_part
from swarm.plan.claims import CellCosts
from swarm.testing.integer_model import KV_LAYER_BYTES, MODEL_ID, IntegerEngine, IntegerModel
from swarm.wire.events import Arrived, Asker, LinkDown, LinkMessage, LinkUp

TICK_SECONDS = 0.2
LAYER_BYTES = 100
LOAD_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How the network treats messages."""

    least_seconds: float = 0.0005
    most_seconds: float = 0.005
    loss: float = 0.0
    duplication: float = 0.0


@dataclass(slots=True)
class BrokenPromiseError(Exception):
    """A promise was broken: what, and in which run."""

    seed: int
    what: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.what}"


@dataclass(slots=True)
class _Node:
    machine: NodeMachine
    address: str
    speed: float
    engine: IntegerEngine | None = None
    is_up: bool = True
    tick: int = 0


@dataclass(slots=True)
class _Client:
    name: str
    machine: SessionMachine
    expected: list[int]
    received: list[int] = field(default_factory=list[int])
    finished: str = ""
    error: Exception | None = None


class Simulation:
    """Nodes, clients, a clock and a network."""

    def __init__(self, seed: int, model: IntegerModel, weather: Weather) -> None:
        self.seed = seed
        self.now = 0.0
        self.model = model
        self.weather = weather
        self.rng = random.Random(seed)
        self.nodes: dict[str, _Node] = {}
        self.clients: dict[str, _Client] = {}
        self.delivered = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._moved_at = 0.0
        self._cuts: set[tuple[str, str]] = set()

    # Building ---------------------------------------------------------------------------------------------------------

    def add_node(self, part: str | None = None, budget_layers: int = 0, speed: float = 1.0) -> str:
        """A node that starts now, with a part of its own or room for so many layers, `speed` times as fast as others."""
        node = f"{self.rng.getrandbits(64):016x}"
        address = f"10.0.0.{len(self.nodes) + 1}:7700"
        costs = CellCosts(self.model.layers, 0, LAYER_BYTES, 0)
        me = Self(
            node=node,
            incarnation=int(self.now * 1000) + 1,
            name=node[:4],
            device="cpu",
            memory_total=1 << 30,
            budget=budget_layers * LAYER_BYTES,
            models=(LocalModel(MODEL_ID, "integers", costs, KV_LAYER_BYTES),),
        )
        machine = NodeMachine(Membership(me, [address], self.now), {MODEL_ID: self.model.card})
        self.nodes[node] = _Node(machine, address, speed)
        placement: dict[str, Part] = {} if part is None else {MODEL_ID: parse_part(part, self.model.layers)}
        peers = [other.address for name, other in self.nodes.items() if name != node]
        self._at(0.0, lambda: self._feed(node, Started(7701, placement, peers)))
        self._at(self.rng.random() * TICK_SECONDS, lambda: self._tick(node))
        return node

    def ask(self, prompt: Sequence[int], count: int) -> str:
        """A client that asks one question now."""
        session = f"{self.rng.getrandbits(128):032x}"
        machine = SessionMachine(session, self.model.card, self.rng.random())
        name = f"{self.rng.getrandbits(64):016x}"
        client = _Client(name, machine, self.model.answer(prompt, count))
        self.clients[name] = client
        turn = Turn(ids=list(prompt), max_tokens=count, sampling=Sampling(), stop_ids=[])
        self._look(client)
        self._perform_client(client, machine.begin(turn, self.now))
        self._at(0.1, lambda: self._tick_client(client))
        return name

    def kill(self, node: str) -> None:
        """The process is gone; connections to it reset."""
        self.nodes[node].is_up = False
        self._break_links(node)

    def stop(self, node: str) -> None:
        """SIGTERM."""
        self._feed(node, StopAsked())

    def cut(self, left: str, right: str) -> None:
        """Nothing passes between two any more, and neither is told."""
        self._cuts |= {(left, right), (right, left)}

    def heal(self) -> None:
        self._cuts.clear()

    def part_of(self, node: str) -> Part:
        """What a node serves."""
        claim = self.nodes[node].machine.claims.by_model.get(MODEL_ID)
        return NOTHING if claim is None else claim.serving

    def is_settled(self, seconds: float) -> bool:
        """Whether no node has begun or ended a load or a drain for so long."""
        return self.now - self._moved_at >= seconds

    def are_answered(self) -> bool:
        """Whether every client is done."""
        return all(client.finished or client.error for client in self.clients.values())

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

    def _at(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), act))

    def _tick(self, name: str) -> None:
        node = self.nodes[name]
        if not node.is_up:
            return
        node.tick += 1
        self._feed(name, Ticked(node.tick, 0))
        self._at(TICK_SECONDS, lambda: self._tick(name))

    def _tick_client(self, client: _Client) -> None:
        if client.finished or client.error:
            return
        self._look(client)
        self._perform_client(client, client.machine.tick(self.now))
        self._at(0.1, lambda: self._tick_client(client))

    def _look(self, client: _Client) -> None:
        """The peer table, as one living node would give it."""
        for node in self.nodes.values():
            if node.is_up and node.machine.phase == "running":
                own = node.machine.make_beat()
                page = node.machine.membership.page(Asker(client.name, "control", b""), AskPeers(), own, self.now)
                assert isinstance(page, Answer)
                assert isinstance(page.message, PeerPage)
                client.machine.see(page.message.nodes)
                return
        client.machine.see([])

    def _feed(self, name: str, event: Event) -> None:
        node = self.nodes[name]
        if node.is_up:
            for effect in node.machine.handle(event, self.now):
                self._perform(name, effect)

    def _send(self, source: str, target: str, act: Callable[[], None]) -> None:
        """Something crosses the network, perhaps."""
        if (source, target) in self._cuts:
            return
        copies = 2 if self.rng.random() < self.weather.duplication else 1
        for _ in range(copies):
            if self.rng.random() >= self.weather.loss:
                delay = self.rng.uniform(self.weather.least_seconds, self.weather.most_seconds)
                self._at(delay, act)

    def _perform(self, name: str, effect: Effect) -> None:
        node = self.nodes[name]
        match effect:
            case SendPeer(target, channel, message, tensor):
                asker = Asker(name, channel, name.encode())
                self._send(name, target, lambda: self._arrive(target, Arrived(asker, message, tensor)))
            case Answer(asker, message, tensor):
                self._answer(name, asker, message, tensor)
            case SendClient(target, message):
                if target in self.clients:
                    self._send(name, target, lambda: self._tell_client(target, name, message))
            case Dial(address):
                self._dial(name, address, "control")
            case DialData(target):
                if target in self.nodes:
                    self._dial(name, self.nodes[target].address, "data")
            case AskTurn():
                self._feed(name, TurnTaken())
            case Run(batch):
                assert node.engine is not None
                result = node.engine.run(batch)
                self._at(result.seconds, lambda: self._feed(name, BatchDone(result)))
            case Forget(_, session):
                if node.engine is not None:
                    node.engine.forget(session)
            case Load(_, part):
                self._moved_at = self.now
                self._at(LOAD_SECONDS, lambda: self._load(name, part))
            case Unload():
                node.engine = None
            case Exit():
                node.is_up = False
                self._break_links(name)
            case _:
                pass

    def _load(self, name: str, part: Part) -> None:
        node = self.nodes[name]
        self._moved_at = self.now
        model = replace(self.model, layer_seconds=self.model.layer_seconds / node.speed)
        node.engine = IntegerEngine(model, part, 1 << 30, pause=lambda seconds: None, old=node.engine)
        self._feed(name, PartLoaded(node.engine.served))

    def _dial(self, source: str, address: str, channel: Channel) -> None:
        for name, node in self.nodes.items():
            if node.address == address and node.is_up and (source, name) not in self._cuts:
                welcome = Welcome(node=name, incarnation=1, name=name[:4], data_port=7701)
                event = LinkUp(name, channel, address, welcome)
                self._at(0.003, lambda event=event: self._feed(source, event))

    def _arrive(self, name: str, arrived: Arrived) -> None:
        if name in self.nodes:
            self._feed(name, arrived)

    def _answer(self, name: str, asker: Asker, message: AnyMessage, tensor: WireTensor | None) -> None:
        if asker.node in self.clients:
            self._send(name, asker.node, lambda: self._tell_client(asker.node, name, message))
        elif asker.node in self.nodes:
            event = LinkMessage(name, asker.channel, message, tensor)
            self._send(name, asker.node, lambda: self._feed(asker.node, event))

    def _break_links(self, name: str) -> None:
        address = self.nodes[name].address
        for other in self.nodes:
            for channel in ("control", "data"):
                self._feed(other, LinkDown(name, channel, address))
        for client in self.clients.values():
            for channel in ("control", "data"):
                client.machine.link_down(name, channel, self.now)

    # Clients ----------------------------------------------------------------------------------------------------------

    def _perform_client(self, client: _Client, effects: Sequence[ClientEffect]) -> None:
        for effect in effects:
            match effect:
                case ClientSend(target, channel, message, tensor):
                    asker = Asker(client.name, channel, client.name.encode())
                    arrived = Arrived(asker, message, tensor)
                    self._send(
                        client.name, target, lambda target=target, arrived=arrived: self._arrive(target, arrived)
                    )
                case Connect(target, channel):
                    self._at(0.003, lambda target=target, channel=channel: self._link_client(client, target, channel))
                case Delivered(ids):
                    self._check(client, ids)
                case Finished(reason):
                    client.finished = reason
                case Failed(error):
                    client.error = error
                case _:
                    pass

    def _link_client(self, client: _Client, target: str, channel: Channel) -> None:
        node = self.nodes.get(target)
        if node is not None and node.is_up and (client.name, target) not in self._cuts:
            self._perform_client(client, client.machine.link_up(target, channel, self.now))

    def _tell_client(self, name: str, node: str, message: AnyMessage) -> None:
        client = self.clients[name]
        self._perform_client(client, client.machine.receive(node, message, self.now))

    def _check(self, client: _Client, ids: Sequence[int]) -> None:
        """Each token once, in order, and the right one."""
        for token in ids:
            at = len(client.received)
            client.received.append(token)
            self.delivered += 1
            if at >= len(client.expected) or client.expected[at] != token:
                raise BrokenPromiseError(self.seed, f"client {client.name[:4]} got {token} at {at} at {self.now:.3f} s")

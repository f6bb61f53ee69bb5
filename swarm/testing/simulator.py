"""A swarm in one thread under one seeded clock: the real machines on a network that loses, delays, repeats and reorders.

Runs the decision code of nodes and clients as it is, with integer-model engines. Checks safety at every delivery: a client
gets each token once, in order, and the right one. A failing seed can be run again and does the same.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence

from swarm.client.generation import GenerationMachine
from swarm.messages.members import AskPeers, Beat, PeerPage
from swarm.models import ModelKey
from swarm.node.effects import (
    Answer,
    Effect,
    Exit,
)
from swarm.node.events import Event, Started, StopAsked, WeightsLost
from swarm.node.machine import NodeMachine
from swarm.node.peers.membership import Membership
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import NOTHING, Part, join_parts, parse_part, whole
from swarm.plan.costs import CellCosts
from swarm.plan.view import read_views
from swarm.testing.clients import SimulatedClient
from swarm.testing.integer_model import KV_LAYER_BYTES, MODEL_ID, IntegerModel
from swarm.testing.network import Network, Weather
from swarm.testing.nodes import TICK_SECONDS, SimulatedNode
from swarm.testing.promises import BrokenPromiseError
from swarm.testing.reading import WEIGHT_BYTES
from swarm.testing.shared_cores import SharedCores
from swarm.testing.traffic import Traffic
from swarm.wire.events import Asker

CLIENT_TICK_SECONDS = 0.1
LAYER_BYTES = 100
NOTICED_SECONDS = 6.0  # until everyone knows that a node is gone


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
        self.nodes: dict[str, SimulatedNode] = {}
        self.clients: dict[str, SimulatedClient] = {}
        self.traffic = Traffic(self.network, self.nodes, self.clients, self.after)
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
        variant: str = "",
        end_layers: int = 0,
        streams: bool = False,
    ) -> str:
        """A node that starts now, with a part of its own or room for so many layers, `speed` times as fast as others.

        beside: a node on whose machine it runs, too. present: what it has the weights of, in which variant. end_layers: how
        many layers would fit where the end does. streams: whether it may read layers from disk each time.
        """
        name = f"{self.rng.getrandbits(64):016x}"
        address = f"10.0.0.{len(self.nodes) + 1}:7700"
        shared = None if beside is None else self.nodes[beside]
        cores = SharedCores() if shared is None else shared.cores
        machine = name if shared is None else shared.machine.membership.me.machine
        absent = frozenset((whole(self.model.layers) - parse_part(present, self.model.layers)).cells)
        weight = WEIGHT_BYTES if streams else 0
        costs = CellCosts(self.model.layers, 0, LAYER_BYTES, end_layers * LAYER_BYTES, absent, weight=weight)

        def make() -> NodeMachine:
            return self._make_machine(name, address, budget_layers, costs, machine, ModelKey(MODEL_ID, variant))

        self._start(name, address, speed, make, part, cores)
        return name

    def _make_machine(
        self, name: str, address: str, budget_layers: int, costs: CellCosts, machine: str, model: ModelKey
    ) -> NodeMachine:
        me = ThisNode(
            node=name,
            incarnation=int(self.now * 1000) + 1,
            name=name[:4],
            device="cpu",
            memory_total=1 << 30,
            budget=budget_layers * LAYER_BYTES,
            machine=machine,
            models=(LocalModel(model, "integers", costs, KV_LAYER_BYTES),),
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
        node = SimulatedNode(
            machine=make(),
            address=address,
            speed=speed,
            start=lambda: self._start(name, address, speed, make, part, cores),
            outside=self,
            cores=cores,
        )
        self.nodes[name] = node
        placement: dict[ModelKey, Part] = {} if part is None else {node.model: parse_part(part, self.model.layers)}
        peers = [other.address for other_name, other in self.nodes.items() if other_name != name]
        self.after(0.0, lambda: node.feed(Started(7701, placement, peers)))
        self.after(self.rng.random() * TICK_SECONDS, node.advance)
        self.traffic.connections.mend(name)

    def ask(
        self,
        prompt: Sequence[int],
        count: int,
        wait_seconds: float = 0.0,
        *,
        stays: bool = False,
        given: Sequence[int] = (),
        variant: str = "",
    ) -> str:
        """A client that asks a question now. stays: it keeps its session when it has been answered, for another one.

        variant: the only one that it uses; "" for any.
        """
        machine = GenerationMachine(
            self.model.card, lambda: f"{self.rng.getrandbits(128):032x}", self.rng.random(), wait_seconds, variant
        )
        name = f"{self.rng.getrandbits(64):016x}"
        client = self.clients[name] = SimulatedClient(name, machine, self)
        client.ask(prompt, self.model.answer_with_scores(prompt, count, given=given), len(given))
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
        self.nodes[name].feed(StopAsked())

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
        self.nodes[name].feed(event)

    def jump_clock(self, name: str, seconds: float) -> None:
        """A node's monotonic clock leaps ahead, as after a suspended virtual machine."""
        self.nodes[name].clock_ahead += seconds

    def slow_disk(self, name: str, load_seconds: float) -> None:
        self.nodes[name].load_seconds = load_seconds

    def read_slowly(self, name: str, read_seconds: float) -> None:
        """Layers that come from disk take so long each, from the next load on."""
        self.nodes[name].read_seconds = read_seconds

    def lose_disk(self, name: str) -> None:
        """No layer can be read any more; it is noticed where some are."""
        node = self.nodes[name]
        claim = node.machine.claims.by_model.get(node.model)
        if claim is not None and claim.loaded_as.count_read(claim.loaded.layers):
            node.engine = None  # what it gives up then, it has not dropped of its own accord
            node.feed(WeightsLost(node.model, "a disk is gone"))

    def cut(self, left: str, right: str, *, one_way: bool = False) -> None:
        """Nothing passes any more, and neither is told until its heartbeats fail."""
        self.network.cut(left, right, one_way=one_way)
        self.traffic.connections.cut(left, right)

    def reset(self, left: str, right: str) -> None:
        """The connections between two break, and come back."""
        self.traffic.connections.reset(left, right)

    def heal(self) -> None:
        """All cables are whole again."""
        self.network.heal()
        self.traffic.connections.mend()

    def move(self, name: str, part: Part) -> None:
        """A node begins a move as if its view had told it to; it drops nothing that it sees nowhere else."""
        node = self.nodes[name]
        layers = self.model.layers
        peers = node.machine.membership.table.live(node.now)
        elsewhere = [view.part("serving") for view in read_views(peers, MODEL_ID, layers)]
        left = self.part_of(name) - part
        if node.is_up and node.stalled_until <= self.now and join_parts(elsewhere).covers(left):
            for effect in node.machine.moves.begin(node.model, part, node.now):
                node.perform(effect)

    # Looking ----------------------------------------------------------------------------------------------------------

    def part_of(self, name: str) -> Part:
        """What a node serves."""
        claim = self.nodes[name].machine.claims.by_model.get(self.nodes[name].model)
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

    def _tick_client(self, client: SimulatedClient, *, stays: bool) -> None:
        if stays or not client.is_done:
            client.tick()
            self.after(CLIENT_TICK_SECONDS, lambda: self._tick_client(client, stays=stays))

    def show_table(self, client: str) -> list[Beat]:
        """The peer table, as one node that a client reaches would give it."""
        for name, node in self.nodes.items():
            if node.stays and node.stalled_until <= self.now and self.network.is_whole(client, name):
                return [beat for beat in self._read_table(client, node) if not beat.leaving]
        return []

    def _read_table(self, client: str, node: SimulatedNode) -> list[Beat]:
        beats: list[Beat] = []
        own = node.machine.make_beat()
        while True:
            request = AskPeers(after=beats[-1].node if beats else "")
            asker = Asker(client, "control", b"")
            page = node.machine.membership.page(asker, request, own, node.now)
            assert isinstance(page, Answer)
            assert isinstance(page.message, PeerPage)
            beats += page.message.nodes
            if not page.message.more:
                return beats

    def carry(self, name: str, effect: Effect) -> None:
        """What a node has for others, or that it ends."""
        if isinstance(effect, Exit):
            self._end(name)
        else:
            self.traffic.carry(name, effect)

    def note_change(self) -> None:
        """A load or a drain has begun or ended somewhere."""
        self._moved_at = self.now

    def views_of_others(self, name: str) -> list[list[NodeMachine]]:
        """Whom a node may see: those who stay, with and without those who left a moment ago and may not be missed yet."""
        staying = [other.machine for other_name, other in self.nodes.items() if other_name != name and other.stays]
        missed = [
            self.nodes[gone].machine
            for gone, ended in self._ended.items()
            if gone != name and not self.nodes[gone].stays and self.now - ended < NOTICED_SECONDS
        ]
        return [staying, staying + missed]

    def _end(self, name: str) -> None:
        self.nodes[name].is_up = False
        self.nodes[name].cores.end(name)
        self._ended[name] = self.now
        self._moved_at = self.now
        self.traffic.connections.end(name, (*self.nodes, *self.clients))

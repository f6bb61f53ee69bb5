"""Swarms of integer-model nodes under the real shell and real sockets, each node a thread group of this process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from swarm.client.news import Delivered
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.client.transcript import Turn
from swarm.keys import SwarmKeys, derive_keys, new_identity
from swarm.messages.files import DocumentCard
from swarm.messages.sampling import Sampling
from swarm.node.effects import Report
from swarm.node.shell.cores import Cores
from swarm.node.shell.process import NodeProcess, NodeSettings
from swarm.node.this_node import LocalModel, ThisNode
from swarm.parts import parse_part
from swarm.plan.costs import CellCosts
from swarm.testing.integer_model import KV_LAYER_BYTES, IntegerLoader, IntegerModel

KEYS = derive_keys(b"s" * 32)
HOST = "127.0.0.1"


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll for something that another thread or process brings about; fail with its name after `seconds`."""
    deadline = time.monotonic() + seconds
    event = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}")
        event.wait(0.01)


@dataclass
class IntegerNode:
    """A node of the integer model in this process."""

    process: NodeProcess
    node: str
    reports: list[Report] = field(default_factory=list)
    on_ready: Callable[[], None] = lambda: None
    thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return self.process.addresses[0]

    @property
    def parts(self) -> list[str]:
        return [report.fields["part"] for report in self.reports if report.kind == "ready"]

    def start(self) -> None:
        self.thread = threading.Thread(target=self.process.run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.process.ask_stop()
        if self.thread is not None:
            self.thread.join(timeout=5)
            assert not self.thread.is_alive(), "a node did not stop within 5 s"


def make_node(
    model: IntegerModel,
    part: str | None,
    peers: Sequence[str] = (),
    *,
    budget_layers: int = 0,
    kv_capacity: int = 1 << 30,
    keys: SwarmKeys = KEYS,
    use_mdns: bool = False,
    hosts: Sequence[str] = (HOST,),
    port: int = 17700,
    pause: Callable[[float], None] = time.sleep,
    cores: str | None = None,
    tokenizer: str | None = None,
) -> IntegerNode:
    """A node, not started yet.

    budget_layers: how many layers it may claim, where `part` does not say. cores: what nodes of one machine take turns by.
    tokenizer: a tokenizer.json for those who speak to it in words.
    """
    identity = new_identity()
    reports: list[Report] = []

    def report(report: Report) -> None:
        reports.append(report)
        if report.kind == "ready":
            node.on_ready()

    me = ThisNode(
        node=identity.node,
        incarnation=time.time_ns() // 1_000_000,
        name=f"node-{identity.node[:4]}",
        device="cpu",
        memory_total=1 << 30,
        budget=budget_layers * 100,
        models=(LocalModel(model.key, "integers", CellCosts(model.layers, 0, 100, 0), KV_LAYER_BYTES),),
    )
    card, documents = model.card, dict[str, Path]()
    if tokenizer is not None:
        data = Path(tokenizer).read_bytes()
        named = DocumentCard(hashlib.sha256(data).hexdigest(), len(data))
        card, documents = structs.replace(card, documents={"tokenizer.json": named}), {named.digest: Path(tokenizer)}
    placement = {} if part is None else {model.key: parse_part(part, model.layers)}
    settings = NodeSettings(hosts=hosts, port=port, peers=peers, use_mdns=use_mdns, placement=placement)
    process = NodeProcess(
        settings,
        keys,
        identity,
        me,
        {model.model: card},
        documents,
        lambda on_layer: IntegerLoader(model, kv_capacity, on_layer, pause),
        report,
        Cores(None if cores is None else Path(cores)),
    )
    node = IntegerNode(process, identity.node, reports)
    return node


@contextmanager
def integer_swarm(model: IntegerModel, parts: Sequence[str], **options: int) -> Iterator[list[IntegerNode]]:
    """Nodes serving the given parts, all ready and connected to each other."""
    nodes: list[IntegerNode] = []
    try:
        for part in parts:
            nodes.append(make_node(model, part, [node.address for node in nodes], **options))  # type: ignore[arg-type]
            nodes[-1].start()
        wait_until(lambda: all(node.parts for node in nodes), 10, "every node is ready")
        yield nodes
    finally:
        for node in nodes:
            node.stop()


@contextmanager
def client_of(nodes: Sequence[IntegerNode], keys: SwarmKeys = KEYS) -> Iterator[SwarmClient]:
    """A client that knows the nodes' addresses."""
    with open_client([node.address for node in nodes], keys) as swarm:
        yield swarm


@contextmanager
def open_client(addresses: Sequence[str], keys: SwarmKeys = KEYS, wait_seconds: float = 0.0) -> Iterator[SwarmClient]:
    """A client that knows some addresses."""
    settings = ClientSettings(hosts=[HOST], peers=addresses, use_mdns=False, wait_seconds=wait_seconds)
    with SwarmClient(settings, keys, new_identity()) as swarm:
        yield swarm


def count_kv(node: IntegerNode) -> int:
    """KV bytes reserved at a node."""
    table = node.process.machine.sessions
    return sum(table.memory.kv_used(model) for model in table.served)


def generate(swarm: SwarmClient, prompt: Sequence[int], count: int, sampling: Sampling | None = None) -> list[int]:
    """One answer in a session of its own."""
    generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
    turn = Turn(ids=prompt, max_tokens=count, sampling=sampling or Sampling(), stop_ids=[])
    return [token for event in generation.generate(turn) if isinstance(event, Delivered) for token in event.ids]

"""How well a chain hides what its nodes read from disk: real nodes; those that only compute are paced by sleeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from swarm.bench.rounds import measure_rounds
from swarm.bench.swarm_side import SwarmSide
from swarm.parts import Part

PORT = 19800
CHAIN_RATE = 0.4e9  # bytes a second of each node, where all three read


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """visits: layers that it runs each time the chain comes by. streamed: layers of them that it reads each time.

    rate: bytes a second that it reads. layer_seconds: that each layer takes at least.
    """

    visits: Sequence[int]
    streamed: int = 0
    rate: float = 0.0
    layer_seconds: float = 0.0

    @property
    def program(self) -> list[str]:
        return ["swarm.bench.slow", f"{self.rate:g}", f"{self.layer_seconds:g}", "node"]

    @property
    def options(self) -> list[str]:
        return ["--stream", f"{self.streamed}" if self.streamed else "never"]


def interleave(nodes: Sequence[Node]) -> list[Part]:
    """What each serves, if the chain comes to one after another, again and again."""
    layers = sum(sum(node.visits) for node in nodes)
    ranges: list[list[tuple[int, int]]] = [[] for _ in nodes]
    start = 0
    for number in range(max(len(node.visits) for node in nodes)):
        for node, found in zip(nodes, ranges, strict=True):
            if number < len(node.visits):
                found.append((start, start + node.visits[number]))
                start += node.visits[number]
    last = len(nodes) - 1
    return [Part(layers, number == 0, tuple(found), number == last) for number, found in enumerate(ranges)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPlan:
    """What to run. layers: of the model, a multiple of three. layer_bytes: that one takes on disk."""

    layers: int
    layer_bytes: int
    rounds: int = 3
    tokens: int = 16
    options: tuple[str, ...] = ()


def run(plan: ChainPlan, weights: Path, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Every figure by name; medians over rounds, in which the chains take turns. weights: a sepweight directory."""
    share = plan.layers // 3
    read = plan.layer_bytes / 1e9  # seconds of a layer at 1 GB/s
    chains: dict[str, list[Node]] = {}
    for name, streamed, others_seconds in (
        ("most", share - 1, 2 * (share - 1) * read),  # S/B is half of the others' time
        ("all", share, 1.05 * share * read),
    ):
        pace = others_seconds / (2 * share)
        visits = [1] * (streamed - 1) + [share - streamed + 1]
        kept = Node(visits=visits, layer_seconds=pace)
        reader = Node(visits=visits, streamed=streamed, rate=1e9)
        chains[f"{name}_read"] = [kept, reader, kept]
        whole = Node(visits=[share], layer_seconds=pace)
        chains[f"{name}_kept"] = [whole, Node(visits=[share]), whole]
    chains["three_read_all"] = [Node(visits=[1] * share, streamed=share, rate=CHAIN_RATE)] * 3
    chains["three_read_half"] = [
        Node(visits=[share // 2, share - share // 2], streamed=share // 2, rate=CHAIN_RATE)
    ] * 3
    with ExitStack() as stack:
        sides: dict[str, SwarmSide] = {}
        for number, (name, nodes) in enumerate(chains.items()):
            say(f"starting the chain {name}")
            sides[name] = stack.enter_context(
                SwarmSide(
                    weights,
                    interleave(nodes),
                    folder / name,
                    PORT + 100 * number,
                    plan.options,
                    [node.program for node in nodes],
                    [node.options for node in nodes],
                )
            )

        def measure(number: int) -> dict[str, float]:
            streams = {name: side.measure_stream(16, plan.tokens, number) for name, side in sides.items()}
            return {name: 1 / stream.decode_tokens_per_second for name, stream in streams.items()}

        found = measure_rounds(plan.rounds, measure, say)
    limit = share * plan.layer_bytes / CHAIN_RATE
    return {
        **{f"chain_{name}_token_seconds": value for name, value in found.items()},
        "chain_most_read_of_kept": found["most_read"] / found["most_kept"],
        "chain_all_read_of_kept": found["all_read"] / found["all_kept"],
        "chain_three_of_limit": limit / found["three_read_all"],
    }

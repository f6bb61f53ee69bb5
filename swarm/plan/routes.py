"""Finds the cheapest chain of (node, part) that covers begin…end exactly once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from swarm.parts import Part, cell_ranges, cells, part_of_cells

HOP_SECONDS = 0.002  # what one more LAN crossing costs a token, until links are measured


@dataclass(frozen=True, slots=True)
class Server:
    """A node that serves a part, with what a token costs in one of its layers (0: not measured yet) and its load."""

    node: str
    part: Part
    layer_seconds: float = 0.0
    sessions: int = 0


@dataclass(frozen=True, slots=True)
class Hop:
    """One element of a route: a node and the contiguous part that it runs."""

    node: str
    part: Part


def find_route(servers: Sequence[Server], layers: int, avoid: Collection[str] = ()) -> list[Hop]:
    """The route with the least predicted seconds a token; an empty list if some cell has no server.

    Same servers, same route, in whatever order they are given.
    """
    total = layers + 2
    usable = sorted(
        (server for server in servers if server.node not in avoid), key=lambda server: (server.node, server.part)
    )
    # best[cell]: the cheapest way to have covered all cells below it
    best: list[tuple[float, list[tuple[str, int, int]]] | None] = [None] * (total + 1)
    best[0] = (0.0, [])
    for start in range(total):
        here = best[start]
        if here is None:
            continue
        for server in usable:
            for first, stop in cell_ranges(server.part, layers):
                if not first <= start < stop:
                    continue
                for end in range(start + 1, stop + 1):
                    cost = here[0] + HOP_SECONDS + _seconds(server, start, end, layers)
                    known = best[end]
                    if known is None or cost < known[0] - 1e-12:
                        best[end] = (cost, [*here[1], (server.node, start, end)])
    found = best[total]
    return [] if found is None else [Hop(node, part_of_cells(start, stop, layers)) for node, start, stop in found[1]]


def _seconds(server: Server, start: int, stop: int, layers: int) -> float:
    """Predicted seconds of a token in cells start..stop; each session already there slows it by half a share."""
    count = sum(1 for cell in range(start, stop) if 0 < cell <= layers)
    return count * (server.layer_seconds or 0.001) * (1.0 + 0.5 * server.sessions)


def missing_cells(servers: Sequence[Server], layers: int, avoid: Collection[str] = ()) -> list[int]:
    """Cells that no server covers."""
    held = {cell for server in servers if server.node not in avoid for cell in cells(server.part, layers)}
    return [cell for cell in range(layers + 2) if cell not in held]

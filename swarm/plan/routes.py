"""Finds the cheapest chain of (node, part) that covers begin…end exactly once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from swarm.parts import Part, join_parts, part_of_cells, runs, whole

HOP_SECONDS = 0.002  # what one more LAN crossing costs a token, until links are measured
UNMEASURED_SECONDS = 0.001  # a layer, where no node has measured one


NOTHING_WANTED: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Server:
    """A node that serves a part, with what a token costs there and the sessions that it has."""

    node: str
    part: Part
    layer_seconds: float = 0.0  # one token through one layer; 0: not measured yet
    end_seconds: float = 0.0  # one token through the final norm and head
    link_seconds: float = HOP_SECONDS
    sessions: int = 0
    prompt_seconds: float = 0.0  # one token of a prompt through one layer; 0: not measured
    variant: str = ""  # of the model's weights there

    @property
    def slowdown(self) -> float:
        """How much longer computing takes for the sessions already there: each counts half a share."""
        return 1.0 + 0.5 * self.sessions

    @property
    def loaded_layer_seconds(self) -> float:
        """Predicted seconds of a token in one layer."""
        return (self.layer_seconds or UNMEASURED_SECONDS) * self.slowdown

    @property
    def loaded_end_seconds(self) -> float:
        """Predicted seconds of a token in the final norm and head."""
        return self.end_seconds * self.slowdown

    def seconds_of(self, part: Part) -> float:
        """What a token costs on a hop that runs `part` here."""
        computing = part.layer_count * self.loaded_layer_seconds + part.end * self.loaded_end_seconds
        return self.link_seconds + computing


@dataclass(frozen=True, slots=True)
class Hop:
    """One element of a route: a node, the contiguous part that it runs, and the variant of the model's weights there."""

    node: str
    part: Part
    variant: str = ""


@dataclass(frozen=True, slots=True)
class _Reached:
    """The cheapest way found to have passed all cells below `stop`; the last hop of it, linked backwards."""

    seconds: float
    server: Server | None
    start: int
    stop: int
    before: _Reached | None


def describe_route(route: Sequence[Hop]) -> list[dict[str, str]]:
    """For whoever reads JSON."""
    return [{"node": hop.node, "part": str(hop.part), "variant": hop.variant} for hop in route]


def variants_of(route: Sequence[Hop]) -> dict[int, str]:
    """Cell → the variant in which a route computes it."""
    return {cell: hop.variant for hop in route for cell in hop.part.cells}


def find_route(
    servers: Sequence[Server], layers: int, avoid: Collection[str] = (), wanted: Mapping[int, str] = NOTHING_WANTED
) -> list[Hop]:
    """The route with the least predicted seconds a token; an empty list if some cell has no server.

    wanted: cell → the variant of the model in which it is to be computed, if anybody serves it so. Without that a route
    through one variant comes first, and one that mixes variants is taken only where there is no other. Same servers, same
    route, in whatever order they are given.
    """
    usable = [server for server in servers if server.node not in avoid]
    pure: dict[str, list[Server]] = {}
    for server in sorted(usable, key=lambda server: server.variant):
        pure.setdefault(server.variant, []).append(server)
    for choices in ([usable],) if wanted else (list(pure.values()), [usable] if len(pure) > 1 else []):
        ends = [end for end in (_reach_end(chosen, layers, wanted) for chosen in choices) if end is not None]
        if ends:
            return _trace(min(ends, key=lambda end: end.seconds), layers)
    return []


def _trace(end: _Reached, layers: int) -> list[Hop]:
    hops: list[Hop] = []
    reached: _Reached | None = end
    while reached is not None and reached.server is not None:
        hops.append(
            Hop(reached.server.node, part_of_cells(reached.start, reached.stop, layers), reached.server.variant)
        )
        reached = reached.before
    return hops[::-1]


def _reach_end(servers: Sequence[Server], layers: int, wanted: Mapping[int, str]) -> _Reached | None:
    total = layers + 2
    usable = sorted(servers, key=lambda server: (server.node, server.part, server.variant))
    served = {(cell, server.variant) for server in usable for cell in server.part.cells} if wanted else set()
    fixed = {cell: variant for cell, variant in wanted.items() if (cell, variant) in served}
    covering: list[list[tuple[int, Server]]] = [[] for _ in range(total)]
    for server in usable:
        may = [cell for cell in server.part.cells if fixed.get(cell, server.variant) == server.variant]
        for first, stop in runs(may) if fixed else server.part.cell_ranges:
            for cell in range(first, stop):
                covering[cell].append((stop, server))
    best: list[_Reached | None] = [_Reached(0.0, None, 0, 0, None), *([None] * total)]
    for start in range(total):
        here = best[start]
        if here is None:
            continue
        for stop, server in covering[start]:
            seconds, layer_seconds = here.seconds + server.link_seconds, server.loaded_layer_seconds
            for cell in range(start, stop):
                if cell > layers:
                    seconds += server.loaded_end_seconds
                elif cell:
                    seconds += layer_seconds
                known = best[cell + 1]
                if known is None or seconds < known.seconds - 1e-12:
                    best[cell + 1] = _Reached(seconds, server, start, cell + 1, here)
    return best[total]


def missing_part(servers: Sequence[Server], layers: int, avoid: Collection[str] = ()) -> Part:
    """What no server covers."""
    return whole(layers) - join_parts(server.part for server in servers if server.node not in avoid)

"""Which chain a session should run on: from what nodes say of themselves, and which of them failed lately.

Pure. Knows no session: when to ask, and what to do with the answer, generation.py and session.py decide.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from swarm.client.route_view import RouteView
from swarm.messages.files import ModelCard
from swarm.plan.routes import NOTHING_WANTED, Hop, Server, missing_part, variants_of

AVOID_SECONDS = 5.0
CHANGE_GAIN = 0.2  # of the seconds a token: a new chain has to compute the whole prompt again where it is new


class RouteChoice:
    """The chains that there are for one model."""

    def __init__(self, card: ModelCard, variant: str = "") -> None:
        """variant: the only one to be used; "" where any will do."""
        self._card = card
        self._variant = variant
        self._view = RouteView()
        self._avoid: dict[str, float] = {}  # node → until when
        self._lost: set[str] = set()

    def see(self, view: RouteView) -> None:
        """The peer table as it is now."""
        self._view = view

    def avoid(self, nodes: Iterable[str], now: float) -> None:
        """Leave these nodes out for a while, where there are others."""
        self._avoid = {node: until for node, until in self._avoid.items() if until > now}
        self._avoid |= dict.fromkeys(nodes, now + AVOID_SECONDS)

    def lose(self, node: str) -> None:
        """Our connection to a node broke: leave it out likewise until it is back, whatever others say of the node."""
        self._lost.add(node)

    def regain(self, node: str) -> None:
        self._lost.discard(node)

    def find(self, now: float, like: Mapping[int, str] = NOTHING_WANTED) -> list[Hop]:
        """The best chain, over nodes that are to be avoided only if there is none without; empty if there is none.

        like: cell → the variant in which it was computed so far; another one is taken only for cells that nobody else serves
        in that.
        """
        avoided = self._lost | {node for node, until in self._avoid.items() if until > now}
        view = self._view.of(self._card)
        return view.find_route(self._variant, avoided, like) or view.find_route(self._variant, (), like)

    def describe_missing(self) -> str:
        """Cells that nobody serves, in words."""
        missing = missing_part(self._servers, self._card.layers).describe()
        if not self._variant:
            return missing
        served = sorted({server.variant for server in self._view.of(self._card).servers})
        return f'{missing} in variant "{self._variant}" (the swarm serves {", ".join(served) or "none"})'

    @property
    def recovery(self) -> Hashable:
        """What nobody serves, and how far nodes are with loading it: differs after each step towards a chain."""
        missing = missing_part(self._servers, self._card.layers)
        loading = [(view, view.part("loading")) for view in self._view.of(self._card).nodes]
        steps = [(view.node, view.variant, part, view.loaded_bytes) for view, part in loading if not part.is_empty()]
        return missing, tuple(steps)

    def is_served(self, route: Sequence[Hop]) -> bool:
        """Whether every hop's node still says that it serves the hop's part."""
        serving = {(server.node, server.variant): server.part for server in self._servers}
        found = [(serving.get((hop.node, hop.variant)), hop.part) for hop in route]
        return all(part is not None and part.covers(wanted) for part, wanted in found)

    def slowest_hop_seconds(self, route: Sequence[Hop]) -> float:
        """What a token costs on the slowest hop of a route, as the nodes say; 0 where they say nothing."""
        servers = {(server.node, server.variant): server for server in self._servers}
        found = [(servers.get((hop.node, hop.variant)), hop.part) for hop in route]
        return max((server.seconds_of(part) for server, part in found if server is not None), default=0.0)

    def find_clearly_faster(self, route: Sequence[Hop], done: int, rest: int, now: float) -> list[Hop]:
        """The chain to take instead, if it would be clearly faster with both idle; empty while a hop's beats are late.

        done: tokens that it would have to compute again where it is new; rest: tokens still to come, in which that has to be
        earned. Who is busy decides which chain it is, but not whether it is worth it: this session is part of the load where
        it runs now.
        """
        servers = {(server.node, server.variant): server for server in self._servers}
        other = self.find(now, variants_of(route))
        if not other or any((hop.node, hop.variant) not in servers for hop in route):
            return []
        here, there = (_idle_seconds(chain, servers) for chain in (route, other))
        new = [
            servers[hop.node, hop.variant].prompt_seconds * hop.part.layer_count for hop in other if hop not in route
        ]
        is_earned = (here - there) * rest > sum(new) * done
        return other if there < (1 - CHANGE_GAIN) * here and is_earned else []

    def kind_of(self, node: str) -> str:
        """What computes there; "" if that is not known."""
        return next((view.kind for view in self._view.of(self._card).nodes if view.node == node), "")

    @property
    def _servers(self) -> Sequence[Server]:
        return self._view.of(self._card).servers_in(self._variant)


def _idle_seconds(route: Sequence[Hop], servers: Mapping[tuple[str, str], Server]) -> float:
    """What a token costs on a chain whose nodes do nothing else."""
    return sum(replace(servers[hop.node, hop.variant], sessions=0).seconds_of(hop.part) for hop in route)

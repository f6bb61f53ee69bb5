"""One attempt's chain as its client sees it: which links it needs, who has opened, how far each hop is, who has failed.

Pure: what the hops say and the times go in, judgements come out. Leaving a chain for another is session.py's decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.messages.base import Channel
from swarm.messages.sessions import Open, Opened, Renewed, Tail
from swarm.plan.routes import Hop

RENEW_SECONDS = 1.0
SILENT_SECONDS = 4.0  # a hop that answered no renewal for so long is dead
STANDING_SECONDS = 3.5  # one whose tick stands hangs; it is seen to move up to a renewal late, so 4.5 s at most
LINK_GRACE_SECONDS = 0.5  # ZeroMQ connects again within 0.2 s of a reset if the other side is there
STUCK_SECONDS = 30.0  # without progress; or so many times what a token takes on the slowest hop
STUCK_TOKENS = 4.0  # a chunk of a prompt takes twice as long there, and may wait for another one

Link = tuple[str, Channel]


def needed_links(route: Sequence[Hop]) -> list[Link]:
    """Control to every node of a route; data to the first, which takes the prompt, and to the last, which sends tokens."""
    links: dict[Link, None] = {(hop.node, "control"): None for hop in route}
    for hop in (*route[:1], *route[-1:]):
        links[hop.node, "data"] = None
    return list(links)


@dataclass(slots=True)
class _NodeState:
    """What is known of a node of the route."""

    heard: float
    tick: int = -1
    tick_moved: float = 0.0
    down_since: float | None = None
    lost: frozenset[str] = frozenset()
    is_draining: bool = False


class Chain:
    """The hops that one attempt runs on."""

    def __init__(self, route: Sequence[Hop], now: float, hop_seconds: float = 0.0) -> None:
        """hop_seconds: of a token on the slowest hop, as its node says; 0: not known."""
        self.route = tuple(route)
        self._hop_seconds = hop_seconds
        self.cached: dict[int, int] = {}  # stage → positions in its cache; a hop that has not opened is not there
        self._nodes = {hop.node: _NodeState(now, tick_moved=now) for hop in route}
        self._known = 0  # token ids that the last hop has
        self._progress_at = now
        self._resent_at = now
        self._asked_at = now

    # Opening ----------------------------------------------------------------------------------------------------------

    def orders(self, session: str, attempt: int, model: str, positions: int, keep: int, tail: Tail) -> list[Open]:
        """What opens the session on each hop that has not opened yet; the last hop's order carries the tail."""
        orders: list[Open] = []
        for index, hop in enumerate(self.route):
            following = self.route[(index + 1) % len(self.route)]
            if index not in self.cached:
                orders.append(
                    Open(
                        session=session,
                        attempt=attempt,
                        stage=index,
                        model=model,
                        variant=hop.variant,
                        part=str(hop.part),
                        previous=self.route[index - 1].node,
                        next=following.node,
                        next_part=str(following.part),
                        positions=positions,
                        keep=keep,
                        is_first=index == 0,
                        tail=tail if index == len(self.route) - 1 else None,
                    )
                )
        return orders

    def may_ask_again(self, now: float) -> bool:
        """Whether hops that have not answered Open should hear it once more: it, or the answer, may be lost."""
        if now - self._asked_at < RENEW_SECONDS:
            return False
        self._asked_at = now
        return True

    def opened(self, node: str, message: Opened, now: float) -> bool:
        """A hop has opened; True once all have."""
        if message.stage >= len(self.route) or self.route[message.stage].node != node:
            return False
        self.cached[message.stage] = message.cached
        self._nodes[node].is_draining = message.is_draining
        self.note_progress(now)
        return len(self.cached) == len(self.route)

    @property
    def unopened(self) -> set[str]:
        return {hop.node for index, hop in enumerate(self.route) if index not in self.cached}

    # What the hops say ------------------------------------------------------------------------------------------------

    def note_progress(self, now: float) -> None:
        """Something that was wanted has come."""
        self._progress_at = now

    def link_down(self, link: Link, now: float) -> None:
        state = self._nodes.get(link[0])
        if state is not None and state.down_since is None and link in needed_links(self.route):
            state.down_since = now

    def link_refused(self, link: Link) -> None:
        """A link that broke cannot be made again: there will be no more of it."""
        state = self._nodes.get(link[0])
        if state is not None and state.down_since is not None and link in needed_links(self.route):
            state.down_since = float("-inf")

    def links_up(self, node: str, now: float) -> None:
        """Every link that this chain needs to a node is up again."""
        state = self._nodes.get(node)
        if state is not None and state.down_since is not None:
            state.down_since, state.heard = None, now

    def renewed(self, node: str, message: Renewed, now: float) -> None:
        """A node's answer to Renew."""
        state = self._nodes.get(node)
        if state is None:
            return
        state.heard = now
        goes_on = message.tick != state.tick
        if goes_on:
            state.tick, state.tick_moved = message.tick, now
        state.lost = frozenset(message.lost)
        state.is_draining = message.is_draining
        has_more = any(self.cached.get(stage) != cached for stage, cached in message.cached.items())
        # One of very many waits for long: as long as the node computes for others, its turn comes.
        if message.known > self._known or has_more or (message.is_waiting and goes_on):
            self.note_progress(now)
        self.cached.update(message.cached)
        self._known = max(self._known, message.known)

    @property
    def draining(self) -> set[str]:
        """Nodes that will soon stop to serve what this chain uses there."""
        return {node for node, state in self._nodes.items() if state.is_draining}

    # Judgements -------------------------------------------------------------------------------------------------------

    def is_heard(self, node: str, now: float) -> bool:
        """Whether a node has answered lately."""
        state = self._nodes.get(node)
        return state is not None and now - state.heard < SILENT_SECONDS

    def find_trouble(self, now: float) -> tuple[set[str], str] | None:
        """Nodes to leave and why, if the chain cannot go on."""
        for node, state in self._nodes.items():
            if now - state.heard > SILENT_SECONDS:
                return {node}, f"node {node} no longer answers"
            if state.down_since is not None and now - state.down_since > LINK_GRACE_SECONDS:
                return {node}, f"the connection to node {node} broke"
            if state.lost and now - self._progress_at > 2 * RENEW_SECONDS:
                return set(state.lost), f"node {node} lost its connection to the next hop"
            if min(now - state.tick_moved, now - self._progress_at) > STANDING_SECONDS:
                return {node}, f"node {node} hangs"
        if now - self._progress_at > max(STUCK_SECONDS, STUCK_TOKENS * self._hop_seconds):
            return {hop.node for hop in self.route}, "no progress"
        return None

    def find_ahead(self, now: float) -> int | None:
        """After two renewals without progress, the hop whose output the next one lacks; None while there is progress.

        Or after twice what a token takes on the slowest hop: nothing is lost before.
        """
        patience = 2 * max(RENEW_SECONDS, self._hop_seconds)
        if now - self._progress_at < patience or now - self._resent_at < patience:
            return None
        self._resent_at = now
        return next(
            (
                index
                for index in range(len(self.route) - 1)
                if self.cached.get(index, 0) > self.cached.get(index + 1, 0)
            ),
            len(self.route) - 1,
        )

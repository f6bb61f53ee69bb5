"""Decides how a client keeps one session going: route, open, feed, receive, renew, resend, reroute.

Owns the token ids, which are the truth: a token that never arrived here was never said. Decides only: messages and times
go in, effects come out. Knows no sockets, no text and no terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swarm.discovery.peers import serving_claims
from swarm.errors import PeerError, RequestError, SwarmError
from swarm.messages import (
    AnyMessage,
    Beat,
    Channel,
    Close,
    ModelCard,
    Open,
    Opened,
    Refused,
    Renew,
    Renewed,
    Resend,
    Sampling,
    Steps,
    StepSpan,
    Tail,
    Tokens,
    WireTensor,
    ids_tensor,
)
from swarm.parts import describe_cells, parse_part
from swarm.plan.routes import Hop, Server, find_route, missing_cells

RENEW_SECONDS = 1.0
SILENT_SECONDS = 4.0  # a hop that answered no renewal for so long is dead
LINK_GRACE_SECONDS = 1.0  # a reset connection may come back by itself
OPEN_SECONDS = 6.0
STUCK_SECONDS = 30.0
AVOID_SECONDS = 5.0
PATIENCE_SECONDS = 8.0  # with no chain or no room, before the answer is given up

Phase = Literal["idle", "routing", "connecting", "opening", "running", "over"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer asked for. ids: the whole prompt, whatever of it is cached already."""

    ids: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stop_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Connect:
    """A link to a node is needed; LinkUp will say so when it is there."""

    node: str
    channel: Channel


@dataclass(frozen=True, slots=True)
class Send:
    """A message to a node on a link of ours."""

    node: str
    channel: Channel
    message: AnyMessage
    tensor: WireTensor | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """New token ids of the answer, each exactly once and in order."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RouteTaken:
    """The chain that the answer now comes from."""

    route: tuple[Hop, ...]
    attempts: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is over: "stop" (end of text), "length" or "cancelled"."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer cannot go on."""

    error: SwarmError


Effect = Connect | Send | Delivered | RouteTaken | Finished | Failed


@dataclass(slots=True)
class _NodeState:
    """What is known of a node of the route."""

    heard: float
    tick: int = -1
    tick_moved: float = 0.0
    down_since: float | None = None
    lost: frozenset[str] = frozenset()


class SessionMachine:
    """One session over any number of turns and chains."""

    def __init__(self, session: str, card: ModelCard, jitter: float) -> None:
        """jitter: 0…1, this client's own, spreads retries of clients that collided."""
        self.session = session
        self.card = card
        self.ids: list[int] = []
        self.route: list[Hop] = []
        self.phase: Phase = "idle"
        self.attempts = 0  # chains that this turn has run on
        self.busy_seconds: dict[str, float] = {}
        self._jitter = jitter
        self._attempt = 0
        self._turn: Turn | None = None
        self._limit = 0
        self._cached: list[int] = []  # what the hops' caches may hold a prefix of
        self._beats: Sequence[Beat] = ()
        self._up: set[tuple[str, Channel]] = set()
        self._ends: dict[int, int] = {}
        self._nodes: dict[str, _NodeState] = {}
        self._avoid: dict[str, float] = {}
        self._since = 0.0  # when the phase began
        self._trouble_since: float | None = None
        self._retry_at = 0.0
        self._renewed_at = float("-inf")
        self._start = 0  # where this attempt's feeding began, and where it ended
        self._fed = 0
        self._known = 0  # token ids that the last hop has
        self._progress_at = 0.0
        self._resent_at = 0.0

    # What the user does -----------------------------------------------------------------------------------------------

    def begin(self, turn: Turn, now: float) -> list[Effect]:
        """Ask for an answer. What the last turn left in the hops' caches is kept as far as the ids agree."""
        assert self.phase in ("idle", "over"), self.phase
        if not turn.ids:
            return self._fail(RequestError("the prompt is empty"))
        if len(turn.ids) >= self.card.context:
            return self._fail(
                RequestError(f"the prompt has {len(turn.ids)} tokens; the model's context is {self.card.context}")
            )
        self._cached = self.ids[: common_prefix(self.ids, turn.ids)]
        self.ids = list(turn.ids)
        self._turn = turn
        self._limit = min(len(turn.ids) + turn.max_tokens, self.card.context)
        self.attempts = 0
        self.busy_seconds = {}
        self._trouble_since = None
        if self.route and self._is_route_alive(now):
            return self._connect(now)
        return self._find_route(now)

    def halt(self, keep: int) -> list[Effect]:
        """Stop the answer but keep the session: token ids from `keep` on are dropped, here and in the caches.

        A new attempt fences off what the old one still computes.
        """
        del self.ids[keep:]
        self._cached = list(self.ids)
        if self.phase != "running":
            return []
        self.phase = "idle"
        self._attempt += 1
        self._ends = {}
        return self._open_all()

    def cancel(self) -> list[Effect]:
        """Stop the answer and free every cache at once."""
        effects = self._close_all()
        if self.phase not in ("idle", "over"):
            effects.append(Finished("cancelled"))
        self.phase, self.route, self._cached = "over", [], []
        return effects

    # What the world does ----------------------------------------------------------------------------------------------

    def see(self, beats: Sequence[Beat]) -> None:
        """The peer table as it is now."""
        self._beats = beats

    def link_up(self, node: str, channel: Channel, now: float) -> list[Effect]:
        self._up.add((node, channel))
        state = self._nodes.get(node)
        if state is not None and state.down_since is not None and self._are_links_up(node):
            state.down_since = None
            state.heard = now
        return self._proceed(now)

    def link_down(self, node: str, channel: Channel, now: float) -> None:
        self._up.discard((node, channel))
        state = self._nodes.get(node)
        if state is not None and state.down_since is None and (node, channel) in self._needed_links():
            state.down_since = now

    def receive(self, node: str, message: AnyMessage, now: float) -> list[Effect]:
        """A message about this session."""
        match message:
            case Opened() if message.attempt == self._attempt:
                return self._opened(message, now)
            case Refused() if message.attempt == self._attempt:
                return self._refused(node, message, now)
            case Tokens() if message.attempt == self._attempt and self.phase == "running":
                return self._tokens(message, now)
            case Renewed() if message.attempt == self._attempt:
                self._renewed(node, message, now)
            case _:
                pass  # of an earlier attempt: that chain no longer speaks for this session
        return []

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: renew, notice what is wrong, retry."""
        self._avoid = {node: until for node, until in self._avoid.items() if until > now}
        match self.phase:
            case "routing":
                return self._find_route(now) if now >= self._retry_at else []
            case "connecting":
                if now - self._since > OPEN_SECONDS:
                    silent = {node for node, channel in self._needed_links() if (node, channel) not in self._up}
                    return self._reroute(silent, "no connection", now)
                return self._proceed(now)
            case "opening":
                if now - self._since > OPEN_SECONDS:
                    silent = {hop.node for index, hop in enumerate(self.route) if index not in self._ends}
                    return self._reroute(silent, "no answer to open", now)
            case "running":
                trouble = self._find_trouble(now)
                if trouble is not None:
                    return self._reroute(trouble[0], trouble[1], now)
                return [*self._renew(now), *self._nudge(now)]
            case "idle":
                if self.route and not self._is_route_alive(now):
                    self.route = []
                return self._renew(now)
            case "over":
                pass
        return []

    # Routes -----------------------------------------------------------------------------------------------------------

    def _servers(self) -> list[Server]:
        return [
            Server(beat.node, parse_part(claim.part, claim.layers), claim.layer_seconds, beat.sessions)
            for beat, claim in serving_claims(self._beats, self.card.model)
            if claim.layers == self.card.layers
        ]

    def _find_route(self, now: float) -> list[Effect]:
        servers = self._servers()
        route = find_route(servers, self.card.layers, self._avoid) or find_route(servers, self.card.layers)
        if not route:
            return self._wait_for_route(missing_cells(servers, self.card.layers), now)
        effects: list[Effect] = []
        dropped = {hop.node for hop in self.route} - {hop.node for hop in route}
        effects += [
            Send(node, "control", Close(session=self.session, attempt=self._attempt)) for node in sorted(dropped)
        ]
        self.route = route
        return [*effects, *self._connect(now)]

    def _wait_for_route(self, missing: Sequence[int], now: float) -> list[Effect]:
        started = self._trouble_since
        if started is None or now - started > PATIENCE_SECONDS:
            what = describe_cells(missing, self.card.layers)
            return self._fail(
                PeerError(
                    f"no chain covers {self.card.name}: {what} missing; start swarm-node on another machine, or see "
                    "swarm-status for what is loading",
                    code="NO_ROUTE",
                )
            )
        self.phase, self._retry_at = "routing", now + 0.25
        return []

    def _connect(self, now: float) -> list[Effect]:
        self.phase, self._since = "connecting", now
        missing = [link for link in self._needed_links() if link not in self._up]
        return [*(Connect(*link) for link in missing), *self._proceed(now)]

    def _needed_links(self) -> list[tuple[str, Channel]]:
        links: dict[tuple[str, Channel], None] = {(hop.node, "control"): None for hop in self.route}
        for hop in (*self.route[:1], *self.route[-1:]):
            links[hop.node, "data"] = None
        return list(links)

    def _are_links_up(self, node: str) -> bool:
        return all(link in self._up for link in self._needed_links() if link[0] == node)

    def _is_route_alive(self, now: float) -> bool:
        """Whether the chain of the last turn may still be used: every hop answered its renewals and still serves."""
        serving = {server.node: server.part for server in self._servers()}
        return all(
            hop.node in serving
            and serving[hop.node].covers(hop.part)
            and hop.node in self._nodes
            and now - self._nodes[hop.node].heard < SILENT_SECONDS
            for hop in self.route
        )

    def _reroute(self, suspects: set[str], reason: str, now: float) -> list[Effect]:
        """Leave the chain for another; the suspects are avoided for a while if that is possible."""
        for node in suspects:
            self._avoid[node] = now + AVOID_SECONDS
        if self._trouble_since is None:
            self._trouble_since = now
        elif now - self._trouble_since > PATIENCE_SECONDS:
            return self._fail(PeerError(f"gave up after {PATIENCE_SECONDS:.0f} s: {reason}", code="NO_ROUTE"))
        self._cached = list(self.ids)
        return self._find_route(now)

    # Opening ----------------------------------------------------------------------------------------------------------

    def _proceed(self, now: float) -> list[Effect]:
        """Open the session once every link is up."""
        if self.phase != "connecting" or any(link not in self._up for link in self._needed_links()):
            return []
        self.phase, self._since = "opening", now
        self._attempt += 1
        self.attempts += 1
        self._ends = {}
        self._nodes = {hop.node: _NodeState(now, tick_moved=now) for hop in self.route}
        self._renewed_at = now
        return self._open_all()

    def _open_all(self) -> list[Effect]:
        assert self._turn is not None
        keep = min(len(self._cached), len(self.ids) - 1)
        effects: list[Effect] = []
        for index, hop in enumerate(self.route):
            following = self.route[(index + 1) % len(self.route)]
            is_last = index == len(self.route) - 1
            order = Open(
                session=self.session,
                attempt=self._attempt,
                hop=index,
                model=self.card.model,
                part=str(hop.part),
                previous=self.route[index - 1].node,
                next=following.node,
                next_part=str(following.part),
                positions=self._limit,
                keep=max(keep, 0),
                is_first=index == 0,
                tail=Tail(sampling=self._turn.sampling, stop_ids=list(self._turn.stop_ids), limit=self._limit)
                if is_last
                else None,
            )
            effects.append(Send(hop.node, "control", order, ids_tensor(self.ids) if is_last else None))
        return effects

    def _opened(self, message: Opened, now: float) -> list[Effect]:
        if self.phase != "opening":
            return []
        self._ends[message.hop] = message.end
        if len(self._ends) < len(self.route):
            return []
        self.phase = "running"
        self._progress_at = self._resent_at = now
        self._known = 0
        self._start = min(*self._ends.values(), len(self.ids) - 1)
        self._fed = len(self.ids)
        return [RouteTaken(tuple(self.route), self.attempts), self._feed()]

    def _feed(self) -> Send:
        """What the caches lack, in one message to the first hop, which cuts it as its pace allows."""
        first = self.route[0]
        span = StepSpan(self.session, self._attempt, 0, self._start, self._fed - self._start, True)
        steps = Steps(model=self.card.model, part=str(first.part), spans=[span])
        return Send(first.node, "data", steps, ids_tensor(self.ids[self._start : self._fed]))

    def _refused(self, node: str, message: Refused, now: float) -> list[Effect]:
        if self.phase == "idle":
            self.route = []  # the hop gave the session up: the next turn starts from nothing
            return []
        if self.phase in ("routing", "over", "connecting"):
            return []
        if message.code == "TOO_LONG":
            effects = self._close_all()
            return [*effects, *self._fail(RequestError(message.message))]
        if message.code == "FAILED":
            effects = self._close_all()
            return [*effects, *self._fail(PeerError(message.message, peer=node, hop=message.hop, code="FAILED"))]
        if self._trouble_since is None:
            self._trouble_since = now
        elif now - self._trouble_since > PATIENCE_SECONDS:
            effects = self._close_all()
            error = PeerError(f"node {node}: {message.message}", peer=node, hop=message.hop, code=message.code)
            return [*effects, *self._fail(error)]
        # One refusal closes all: two clients that each hold half the hops would wait for each other forever.
        effects = self._close_all()
        self._avoid[node] = now + AVOID_SECONDS
        self._cached = list(self.ids)
        self.phase = "routing"
        self._retry_at = now + message.retry_seconds * (0.5 + self._jitter)
        return effects

    def _close_all(self) -> list[Effect]:
        nodes = sorted({hop.node for hop in self.route})
        return [Send(node, "control", Close(session=self.session, attempt=self._attempt)) for node in nodes]

    def _fail(self, error: SwarmError) -> list[Effect]:
        self.phase, self.route, self._cached = "over", [], []
        return [Failed(error)]

    # Running ----------------------------------------------------------------------------------------------------------

    def _tokens(self, message: Tokens, now: float) -> list[Effect]:
        skip = len(self.ids) - message.index
        if not 0 <= skip < len(message.ids):
            return []  # known already, or out of order: the last hop will send what is missing again
        new = message.ids[skip:]
        self.ids += new
        self._trouble_since = None
        self._progress_at = now
        effects: list[Effect] = [Delivered(tuple(new))]
        if message.finish:
            self.phase = "idle"
            self._cached = list(self.ids)
            effects.append(Finished(message.finish))
        return effects

    def _renew(self, now: float) -> list[Effect]:
        if now - self._renewed_at < RENEW_SECONDS or not self.route:
            return []
        self._renewed_at = now
        message = Renew(session=self.session, attempt=self._attempt, have=len(self.ids))
        return [Send(node, "control", message) for node in sorted({hop.node for hop in self.route})]

    def _renewed(self, node: str, message: Renewed, now: float) -> None:
        state = self._nodes.get(node)
        if state is None:
            return
        state.heard = now
        if message.tick != state.tick:
            state.tick, state.tick_moved = message.tick, now
        state.lost = frozenset(message.lost)
        if message.known > self._known or any(self._ends.get(hop) != end for hop, end in message.ends.items()):
            self._progress_at = now
        self._ends.update(message.ends)
        self._known = max(self._known, message.known)
        self.busy_seconds[node] = message.busy_seconds

    def _find_trouble(self, now: float) -> tuple[set[str], str] | None:
        """Nodes to leave and why, if the chain cannot go on."""
        for hop in self.route:
            state = self._nodes[hop.node]
            if now - state.heard > SILENT_SECONDS:
                return {hop.node}, f"node {hop.node} no longer answers"
            if state.down_since is not None and now - state.down_since > LINK_GRACE_SECONDS:
                return {hop.node}, f"the connection to node {hop.node} broke"
            if state.lost and now - self._progress_at > 2 * RENEW_SECONDS:
                return set(state.lost), f"node {hop.node} lost its connection to the next hop"
            if now - state.tick_moved > SILENT_SECONDS and now - self._progress_at > SILENT_SECONDS:
                return {hop.node}, f"node {hop.node} hangs"
        if now - self._progress_at > STUCK_SECONDS:
            return {hop.node for hop in self.route}, "no progress"
        return None

    def _nudge(self, now: float) -> list[Effect]:
        """After two renewals without progress, have the hop that is ahead send its output again."""
        if now - self._progress_at < 2 * RENEW_SECONDS or now - self._resent_at < 2 * RENEW_SECONDS:
            return []
        self._resent_at = now
        ahead = next(
            (index for index in range(len(self.route) - 1) if self._ends.get(index, 0) > self._ends.get(index + 1, 0)),
            len(self.route) - 1,
        )
        effects: list[Effect] = [
            Send(self.route[ahead].node, "control", Resend(session=self.session, attempt=self._attempt))
        ]
        if self._ends.get(0, 0) < self._fed:
            effects.append(self._feed())
        return effects


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading ids two sequences share."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count

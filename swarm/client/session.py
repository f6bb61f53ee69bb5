"""Decides how a client keeps one session going over turns and chains: route, open, feed, receive, renew, reroute.

Decides only: messages and times go in, effects come out. What has been said is transcript.py's, what is known of the chain
in use chain.py's; no sockets, no text and no terminal here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from swarm.client.chain import RENEW_SECONDS, Chain, Link, needed_links
from swarm.client.choice import RouteChoice
from swarm.client.effects import Connect, Effect, Send
from swarm.client.news import Failed, Finished, RouteTaken
from swarm.client.patience import AGAIN_SECONDS, FAILED_SECONDS, REFUSED_SECONDS, TROUBLE_SECONDS, Patience
from swarm.client.transcript import Transcript, Turn
from swarm.errors import PeerError, RequestError, SwarmError
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.files import ModelCard
from swarm.messages.sessions import Close, Opened, Refused, Renew, Renewed, Resend
from swarm.messages.steps import Steps, StepSpan, Tokens
from swarm.messages.tensors import ids_tensor
from swarm.plan.routes import NOTHING_WANTED, Hop, variants_of

CONNECT_SECONDS = 1.5  # a node on a LAN that has not answered by then is not there
OPEN_SECONDS = 6.0

Phase = Literal["idle", "routing", "connecting", "opening", "running", "over"]


class SessionMachine:
    """One session over any number of turns and chains."""

    def __init__(
        self,
        session: str,
        card: ModelCard,
        choice: RouteChoice,
        jitter: float,
        wait_seconds: float = 0.0,
        variants: Mapping[int, str] = NOTHING_WANTED,
    ) -> None:
        """choice: kept up to date by the caller. jitter: 0…1, this client's own, spreads retries of clients that collided.

        wait_seconds: how long to wait for a chain that works where there is none; an answer that has begun waits some
        seconds even so. variants: cell → of the model, in which another session has computed it so far.
        """
        self.session = session
        self.card = card
        self.transcript = Transcript(card.context)
        self.route: list[Hop] = []
        self.variants = variants  # those of the last chain that ran
        self.phase: Phase = "idle"
        self.refusal = ""  # the code of the last one in this turn
        self.attempts = 0  # chains that this turn has run on
        self.busy_seconds: dict[str, float] = {}
        self.links: set[Link] = set()  # that are up
        self._jitter = jitter
        self._patience = Patience(wait_seconds)
        self._attempt = 0
        self._choice = choice
        self._chain = Chain([], 0.0)
        self._since = 0.0  # when the phase began
        self._retry_at = 0.0
        self._renewed_at = float("-inf")
        self._start = 0  # where this attempt's feeding began, and where it ended
        self._fed = 0

    # What the user does -----------------------------------------------------------------------------------------------

    def begin(self, turn: Turn, now: float) -> list[Effect]:
        """Ask for an answer. What the caches hold is kept as far as the ids agree; an answer that runs is fenced off."""
        self._patience.begin()
        return self._begin(turn, now)

    def take_over(self, turn: Turn, now: float) -> list[Effect]:
        """Go on with an answer that another session has begun, as patiently as if it were this one's own."""
        self._patience.begin(trouble_since=now)
        return self._begin(turn, now)

    def _begin(self, turn: Turn, now: float) -> list[Effect]:
        try:
            self.transcript.begin(turn)
        except RequestError as error:
            return self._fail(error)
        self.attempts = 0
        self.busy_seconds = {}
        self.refusal = ""
        if self.is_route_alive(now):
            return self._connect(now)
        return self._find_route(now)

    def halt(self, keep: int) -> list[Effect]:
        """Stop the answer but keep the session: token ids from `keep` on are dropped, here and in the caches.

        A new attempt fences off what the old one still computes.
        """
        self.transcript.cut(keep)
        if self.phase != "running":
            return []
        self.phase = "idle"
        self._attempt += 1
        self._chain.cached = {}
        return self._ask_open()

    def cancel(self) -> list[Effect]:
        """Stop the answer and free every cache at once."""
        was_answering = self.phase not in ("idle", "over")
        effects = self.close()
        return [*effects, Finished("cancelled")] if was_answering else effects

    def close(self) -> list[Effect]:
        """Free every cache at once, without a word."""
        effects = self._close_all()
        self.phase, self.route = "over", []
        self.transcript.are_forgotten()
        return effects

    @property
    def chosen_at(self) -> float:
        """When the chain in use was chosen, or its opening began."""
        return self._since

    @property
    def draining(self) -> set[str]:
        """Nodes of the chain in use that will soon stop to serve it."""
        return self._chain.draining

    # What the world does ----------------------------------------------------------------------------------------------

    def link_up(self, node: str, channel: Channel, now: float) -> list[Effect]:
        self.links.add((node, channel))
        if all(missing != node for missing, _ in self._missing_links()):
            self._chain.links_up(node, now)
        return self._proceed(now)

    def link_down(self, node: str, channel: Channel, now: float) -> None:
        self.links.discard((node, channel))
        self._chain.link_down((node, channel), now)

    def link_refused(self, node: str, channel: Channel, now: float) -> list[Effect]:
        """Nobody is where that node was: there is nothing to wait for."""
        if self.phase == "connecting" and (node, channel) in self._missing_links():
            return self._reroute({node}, "nobody takes the connection", now)
        self._chain.link_refused((node, channel))
        return self.tick(now) if self.phase == "running" else []

    def receive(self, node: str, message: AnyMessage, now: float) -> list[Effect]:
        """A message about this session."""
        match message:
            case Opened() if message.attempt == self._attempt:
                return self._opened(node, message, now)
            case Refused() if message.attempt == self._attempt:
                return self._refused(node, message, now)
            case Tokens() if message.attempt == self._attempt and self.phase == "running":
                return self._tokens(message, now)
            case Renewed() if message.attempt == self._attempt:
                self._chain.renewed(node, message, now)
                self.busy_seconds[node] = message.busy_seconds
            case _:
                pass  # of an earlier attempt: that chain no longer speaks for this session
        return []

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: renew, notice what is wrong, retry."""
        match self.phase:
            case "routing":
                return self._find_route(now) if now >= self._retry_at else []
            case "connecting":
                if now - self._since > CONNECT_SECONDS:
                    return self._reroute({node for node, _ in self._missing_links()}, "no connection", now)
                return self._proceed(now)
            case "opening":
                if now - self._since > OPEN_SECONDS:
                    return self._reroute(self._chain.unopened, "no answer to open", now)
                return self._ask_open() if self._chain.may_ask_again(now) else []
            case "running":
                trouble = self._chain.find_trouble(now)
                if trouble is not None:
                    return self._reroute(trouble[0], trouble[1], now)
                return [*self._renew(now), *self._nudge(now)]
            case "idle":
                if self.route and (self._chain.draining or not self.is_route_alive(now)):
                    self._choice.avoid(self._unheard(now), now)
                    effects, self.route = self._close_all(), []
                    return effects
                return self._renew(now)
            case "over":
                pass
        return []

    # Routes -----------------------------------------------------------------------------------------------------------

    def _find_route(self, now: float) -> list[Effect]:
        route = self._choice.find(now, self.variants)
        if not route:
            return self._wait_for_route(now)
        self._patience.note_route(now)
        effects: list[Effect] = []
        dropped = {hop.node for hop in self.route} - {hop.node for hop in route}
        effects += [
            Send(node, "control", Close(session=self.session, attempt=self._attempt)) for node in sorted(dropped)
        ]
        self.route = route
        return [*effects, *self._connect(now)]

    def _wait_for_route(self, now: float) -> list[Effect]:
        if not self._patience.bears_no_route(self._choice.recovery, now):
            missing = self._choice.describe_missing()
            return self._fail(
                PeerError(
                    f"no chain covers {self.card.name}: {missing} missing; start swarm-node on another machine, or see "
                    "swarm-status for what is loading",
                    code="NO_ROUTE",
                )
            )
        effects, self.route = self._close_all(), []  # room for others; what is cached there was waited for long enough
        self.phase, self._retry_at = "routing", now + AGAIN_SECONDS
        return effects

    def _connect(self, now: float) -> list[Effect]:
        self.phase, self._since = "connecting", now
        return [*(Connect(*link) for link in self._missing_links()), *self._proceed(now)]

    def _missing_links(self) -> list[Link]:
        return [link for link in needed_links(self.route) if link not in self.links]

    def is_route_alive(self, now: float) -> bool:
        """Whether there is a chain that may be used on: every hop answered its renewals and still serves."""
        return bool(self.route) and not self._unheard(now) and self._choice.is_served(self.route)

    def _unheard(self, now: float) -> set[str]:
        return {hop.node for hop in self.route if not self._chain.is_heard(hop.node, now)}

    def _reroute(self, suspects: set[str], reason: str, now: float) -> list[Effect]:
        """Leave the chain for another; the suspects are avoided for a while if that is possible."""
        self._choice.avoid(suspects, now)
        if not self._patience.bears_trouble(TROUBLE_SECONDS, now):
            waited = self._patience.trouble_seconds(now)
            return self._fail(PeerError(f"gave up after {waited:.0f} s: {reason}", code="NO_ROUTE"))
        return self.change_chain(now)

    def change_chain(self, now: float) -> list[Effect]:
        """Go on over another chain, with what the caches of nodes in both hold."""
        self.transcript.are_cached()
        return self._find_route(now)

    # Opening ----------------------------------------------------------------------------------------------------------

    def _proceed(self, now: float) -> list[Effect]:
        """Open the session once every link is up."""
        if self.phase != "connecting" or self._missing_links():
            return []
        self.phase, self._since = "opening", now
        self._attempt += 1
        self.attempts += 1
        self._chain = Chain(self.route, now, self._choice.slowest_hop_seconds(self.route))
        self._renewed_at = now
        return self._ask_open()

    def _ask_open(self) -> list[Effect]:
        """Open the session on every hop that has not opened it yet."""
        said = self.transcript
        orders = self._chain.orders(self.session, self._attempt, self.card.model, said.limit, said.keep, said.tail)
        return [
            Send(self.route[order.stage].node, "control", order, None if order.tail is None else ids_tensor(said.known))
            for order in orders
        ]

    def _opened(self, node: str, message: Opened, now: float) -> list[Effect]:
        if self.phase != "opening" or not self._chain.opened(node, message, now):
            return []
        self.phase = "running"
        self.variants = variants_of(self.route)
        self._start = min(*self._chain.cached.values(), len(self.transcript.ids) - 1)
        self._fed = self.transcript.fed
        return [RouteTaken(tuple(self.route), self.attempts, self.session), self._feed()]

    def _feed(self) -> Send:
        """What the caches lack, in one message to the first hop, which cuts it as its pace allows."""
        first = self.route[0]
        span = StepSpan(self.session, self._attempt, 0, self._start, self._fed - self._start, True)
        steps = Steps(model=self.card.model, part=str(first.part), spans=[span])
        return Send(first.node, "data", steps, ids_tensor(self.transcript.known[self._start : self._fed]))

    def _refused(self, node: str, message: Refused, now: float) -> list[Effect]:
        if self.phase == "idle":
            self.route = []  # the hop gave the session up: the next turn starts from nothing
            return []
        if self.phase in ("routing", "over", "connecting"):
            return []
        self.refusal = message.code
        if message.code == "TOO_LONG":
            return self._fail(RequestError(message.message))
        self._choice.avoid([node], now)
        error = PeerError(f"node {node}: {message.message}", peer=node, stage=message.stage, code=message.code)
        if message.code == "FAILED":
            return self._failed(node, error, now)
        if not self._patience.bears_trouble(REFUSED_SECONDS, now):
            return self._fail(error)
        # One refusal closes all: two clients that each hold half the hops would wait for each other forever.
        return self._step_back(now + message.retry_seconds * (0.5 + self._jitter))

    def _failed(self, node: str, error: PeerError, now: float) -> list[Effect]:
        """A node cannot compute for this session: another chain may; where there is none, it has one more try."""
        has_other = all(hop.node != node for hop in self._choice.find(now, self.variants))
        if not self._patience.bears_trouble(TROUBLE_SECONDS if has_other else FAILED_SECONDS, now):
            return self._fail(error)
        return self.change_chain(now) if has_other else self._step_back(now + AGAIN_SECONDS)

    def _step_back(self, retry_at: float) -> list[Effect]:
        """Give back all that the hops hold, and look for a chain later."""
        effects = self._close_all()
        self.transcript.are_cached()
        self.phase, self._retry_at = "routing", retry_at
        return effects

    def _close_all(self) -> list[Effect]:
        nodes = sorted({hop.node for hop in self.route})
        return [Send(node, "control", Close(session=self.session, attempt=self._attempt)) for node in nodes]

    def _fail(self, error: SwarmError) -> list[Effect]:
        return [*self.close(), Failed(error)]

    # Running ----------------------------------------------------------------------------------------------------------

    def _tokens(self, message: Tokens, now: float) -> list[Effect]:
        delivered = self.transcript.take(message)
        if delivered is None:
            return []
        self._patience.note_token()
        self._chain.note_progress(now)
        if not message.finish:
            return [delivered]
        self.phase = "idle"
        self.transcript.are_cached()
        return [delivered, Finished(message.finish)]

    def _renew(self, now: float) -> list[Effect]:
        if now - self._renewed_at < RENEW_SECONDS or not self.route:
            return []
        self._renewed_at = now
        message = Renew(session=self.session, attempt=self._attempt, have=len(self.transcript.ids))
        return [Send(node, "control", message) for node in sorted({hop.node for hop in self.route})]

    def _nudge(self, now: float) -> list[Effect]:
        """Where nothing moves, have the hop that is ahead send its output again."""
        ahead = self._chain.find_ahead(now)
        if ahead is None:
            return []
        resend = Send(self.route[ahead].node, "control", Resend(session=self.session, attempt=self._attempt))
        return [resend, self._feed()] if self._chain.cached.get(0, 0) < self._fed else [resend]

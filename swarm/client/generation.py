"""Keeps one conversation's answers coming while the swarm changes under it: two sessions at a time, where that is needed.

The lead answers. Once its chain is about to lose a hop, or another would be clearly faster, an understudy (a session of its
own) is fed with the same ids over the other chain while the lead goes on; when it has caught up, it takes over at a token
boundary. Decides only. How one session runs is session.py's; which chain is choice.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from swarm.client.chain import RENEW_SECONDS
from swarm.client.choice import RouteChoice
from swarm.client.effects import Connect, Effect, Send
from swarm.client.news import Delivered, RouteTaken
from swarm.client.route_view import RouteView
from swarm.client.session import Phase, SessionMachine
from swarm.client.transcript import Turn
from swarm.messages.any import AnyMessage
from swarm.messages.base import Channel
from swarm.messages.files import ModelCard
from swarm.parts import Part, part_of
from swarm.plan.routes import Hop, variants_of

CHANGE_SECONDS = 3.0  # on a chain, before a better one is looked for
CAUGHT_UP_SECONDS = 0.5  # an understudy that computed what it lacked so fast lacks no more than that by now
CAUGHT_UP_TOKENS = 2  # nor does it where a single token takes as long
RETRY_SECONDS = 10.0  # after an understudy that failed
HURRY_SECONDS = 0.3  # likewise, while the lead's chain is about to lose a hop


class GenerationMachine:
    """One conversation in the swarm, over any number of turns, chains and sessions."""

    def __init__(
        self,
        card: ModelCard,
        name_session: Callable[[], str],
        jitter: float,
        wait_seconds: float = 0.0,
        variant: str = "",
    ) -> None:
        """name_session: gives session ids that nobody else has. jitter, wait_seconds: as SessionMachine has them.

        variant: of the model, the only one to be used; "" where any will do.
        """
        self.card = card
        self._name_session = name_session
        self._jitter = jitter
        self._wait_seconds = wait_seconds
        self._choice = RouteChoice(card, variant)
        self.lead = SessionMachine(name_session(), card, self._choice, jitter, wait_seconds)
        self.understudy: SessionMachine | None = None
        self.has_crossed_kinds = False  # a layer has gone from one kind of processor to another within this answer
        self._kinds: dict[int, str] = {}  # cell → of the processor that computes it
        self._variants: dict[int, tuple[str, ...]] = {}  # cell → in which it has been computed in this answer, in turn
        self._earlier_attempts = 0  # of the sessions that led in this turn before
        self._look_at = float("-inf")
        self._fed_at = 0.0  # when the understudy was last given ids
        self._fed = 0  # and how many

    # What there is ----------------------------------------------------------------------------------------------------

    @property
    def sessions(self) -> list[SessionMachine]:
        return [self.lead] if self.understudy is None else [self.lead, self.understudy]

    def has(self, session: str) -> bool:
        return any(one.session == session for one in self.sessions)

    @property
    def ids(self) -> Sequence[int]:
        """Every token id so far, the prompt's too."""
        return self.lead.transcript.ids

    @property
    def route(self) -> Sequence[Hop]:
        """The chain that the answer comes from; empty while there is none."""
        return self.lead.route

    @property
    def phase(self) -> Phase:
        return self.lead.phase

    @property
    def attempts(self) -> int:
        """Chains that this turn has run on."""
        return self._earlier_attempts + self.lead.attempts

    @property
    def busy_seconds(self) -> Mapping[str, float]:
        """What the nodes of the chain in use have computed for this turn so far."""
        return self.lead.busy_seconds

    # What the user does -----------------------------------------------------------------------------------------------

    def begin(self, turn: Turn, now: float) -> list[Effect]:
        """Ask for an answer."""
        effects = self._dismiss()
        self._earlier_attempts = 0
        self.has_crossed_kinds, self._kinds, self._variants = False, {}, {}
        return [*effects, *self._pass_on(self.lead.begin(turn, now))]

    def halt(self, keep: int) -> list[Effect]:
        """Stop the answer but keep the session: token ids from `keep` on are dropped, here and in the caches."""
        return [*self._dismiss(), *self.lead.halt(keep)]

    def cancel(self) -> list[Effect]:
        """Stop the answer and free every cache at once."""
        return [*self._dismiss(), *self.lead.cancel()]

    # What the world does ----------------------------------------------------------------------------------------------

    def see(self, view: RouteView) -> None:
        """The peer table as it is now."""
        self._choice.see(view)

    def link_up(self, node: str, channel: Channel, now: float) -> list[Effect]:
        if channel == "control":
            self._choice.regain(node)
        return self._have_all(lambda session: session.link_up(node, channel, now), now)

    def link_down(self, node: str, channel: Channel, now: float) -> None:
        if channel == "control":
            self._choice.lose(node)
        for session in self.sessions:
            session.link_down(node, channel, now)

    def link_refused(self, node: str, channel: Channel, now: float) -> list[Effect]:
        if channel == "control":
            self._choice.lose(node)
        return self._have_all(lambda session: session.link_refused(node, channel, now), now)

    def receive(self, node: str, session: str, message: AnyMessage, now: float) -> list[Effect]:
        """A message about one of the sessions."""
        known = self.lead.draining
        effects = self._have_all(lambda one: one.receive(node, message, now) if one.session == session else [], now)
        if self.lead.draining <= known:
            return effects
        self._look_at = now  # there are a few seconds to compute the whole prompt elsewhere
        return [*effects, *self._look_elsewhere(now)]

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        effects = self._have_all(lambda session: session.tick(now), now)
        return [*effects, *self._look_elsewhere(now)]

    # Lead and understudy ----------------------------------------------------------------------------------------------

    def _have_all(self, act: Callable[[SessionMachine], list[Effect]], now: float) -> list[Effect]:
        """Have the lead act, and the understudy, of whom the user hears nothing."""
        effects = self._pass_on(act(self.lead))
        if self.understudy is None:
            return effects
        return [*effects, *self._watch(self.understudy, act(self.understudy), now)]

    def _pass_on(self, effects: Sequence[Effect]) -> list[Effect]:
        """What the lead does, with all sessions' attempts counted and the kinds of processor watched."""
        return [self._note_route(effect) if isinstance(effect, RouteTaken) else effect for effect in effects]

    def _note_route(self, taken: RouteTaken) -> RouteTaken:
        kinds = {cell: self._choice.kind_of(hop.node) for hop in taken.route for cell in hop.part.cells}
        self.has_crossed_kinds = self.has_crossed_kinds or self._kinds not in ({}, kinds)
        self._kinds = kinds
        for cell, variant in variants_of(taken.route).items():
            before = self._variants.get(cell, ())
            self._variants[cell] = before if before[-1:] == (variant,) else (*before, variant)
        return replace(
            taken, attempts=self.attempts, has_crossed_kinds=self.has_crossed_kinds, variants=self._tell_variants()
        )

    def _tell_variants(self) -> tuple[tuple[Part, tuple[str, ...]], ...]:
        """By the stretches that had the same ones."""
        stretches: list[tuple[list[int], tuple[str, ...]]] = []
        for cell, variants in sorted(self._variants.items()):
            if not stretches or stretches[-1][1] != variants:
                stretches.append(([], variants))
            stretches[-1][0].append(cell)
        return tuple((part_of(cells, self.card.layers), variants) for cells, variants in stretches)

    def _watch(self, understudy: SessionMachine, effects: Sequence[Effect], now: float) -> list[Effect]:
        """What the understudy has done, and what follows from it."""
        sent: list[Effect] = [effect for effect in effects if isinstance(effect, (Send, Connect))]
        has_token = any(isinstance(effect, Delivered) for effect in effects)
        if self.lead.phase in ("idle", "over"):
            return [*sent, *self._dismiss()]
        if understudy.phase in ("routing", "over"):
            return [*sent, *self._do_without(understudy, now)]
        if self.lead.phase != "running":  # its chain failed: this one is further than none
            return [*sent, *self._hand_over(understudy, now)]
        if not has_token:
            return sent
        # The first token says that the caches hold all that they were fed; the lead has gone on meanwhile.
        lag = len(self.lead.transcript.ids) - self._fed
        if now - self._fed_at < CAUGHT_UP_SECONDS or lag <= CAUGHT_UP_TOKENS:
            return [*sent, *self._hand_over(understudy, now)]
        return [*sent, *self._watch(understudy, self._feed(understudy, now), now)]

    def _feed(self, understudy: SessionMachine, now: float) -> list[Effect]:
        """Have the understudy compute what the lead has by now; what agrees with it is kept."""
        self._fed_at, self._fed = now, len(self.lead.transcript.ids)
        return understudy.begin(self.lead.transcript.rest, now)

    def _hand_over(self, understudy: SessionMachine, now: float) -> list[Effect]:
        """The understudy goes on with the answer where the lead stands, if its own chain may still be used."""
        if understudy.phase == "running" and not understudy.is_route_alive(now):
            return self._do_without(understudy, now)
        rest = self.lead.transcript.rest
        effects = self.lead.close()
        self._look_at = now  # this chain may be about to lose a hop, too
        self._earlier_attempts += self.lead.attempts
        self.lead, self.understudy = understudy, None
        return [*effects, *self._pass_on(self.lead.take_over(rest, now))]

    def _do_without(self, understudy: SessionMachine, now: float) -> list[Effect]:
        """The understudy's chain is no good. If it only lacked room beside the lead's caches, the lead goes there itself."""
        effects = self._dismiss()
        self._look_at = now + (HURRY_SECONDS if self.lead.draining else RETRY_SECONDS)
        lacks_room = understudy.refusal in ("KV_FULL", "OVERLOADED")
        if lacks_room and self.lead.phase == "running" and self._find_better(now):
            effects += self._pass_on(self.lead.change_chain(now))
        return effects

    def _dismiss(self) -> list[Effect]:
        """No understudy is wanted any more."""
        understudy, self.understudy = self.understudy, None
        return [] if understudy is None else understudy.close()

    # Which chain ------------------------------------------------------------------------------------------------------

    def _look_elsewhere(self, now: float) -> list[Effect]:
        """Prepare a change to a better chain; looked for once a second."""
        lead = self.lead
        if lead.phase != "running" or self.understudy is not None or now < self._look_at:
            return []
        self._look_at = now + RENEW_SECONDS
        if not self._find_better(now):
            return []
        self.understudy = SessionMachine(
            self._name_session(), self.card, self._choice, self._jitter, self._wait_seconds, self.lead.variants
        )
        for node, channel in lead.links:
            self.understudy.link_up(node, channel, now)
        return self._watch(self.understudy, self._feed(self.understudy, now), now)

    def _find_better(self, now: float) -> Sequence[Hop]:
        """The chain to change to: any other if ours is about to lose a hop, else one that is clearly faster."""
        lead = self.lead
        if lead.draining:
            self._choice.avoid(lead.draining, now)
            route = self._choice.find(now, lead.variants)
            if any(hop.node in lead.draining for hop in route):
                return []
        elif now - lead.chosen_at >= CHANGE_SECONDS:
            route = self._choice.find_clearly_faster(
                lead.route, len(lead.transcript.ids), lead.transcript.tokens_left, now
            )
        else:
            return []
        return [] if route == lead.route else route

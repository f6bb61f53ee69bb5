"""Which of the waiting steps run next, and how much of the waiting prompts. Pure.

Reads the session table; what is chosen is taken out of the queues by steps.py.

A node that reads layers from disk and is visited several times a token goes over them in a pass: from a session's first
window here to its last. What is read ahead is the next window's, so passes do not overlap, and all who are about to come
share one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from swarm.models import ModelKey
from swarm.node.hops.batching import Candidate, choose_steps, misses_first_prompt
from swarm.node.hops.hop import HopSession
from swarm.node.hops.sessions import SessionTable

CHUNKS_IN_FLIGHT = 2  # prompt chunks that may be on the way to the next hop without its credit
CHUNKS_WHILE_OTHERS_DECODE = 1
# A batch that takes so long, as over layers from disk, waits for steps that are about to come back: without them it takes as
# long, and they wait for all of it. Steps that are away for more than this share of it compute elsewhere meanwhile.
LONG_SECONDS = 0.3
AWAY_SHARE = 0.5


class Schedule:
    """The order in which the sessions of a table run."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._waiting: dict[tuple[str, int], HopSession] = {}  # with steps in their queues
        self._suspects: dict[
            tuple[str, int], HopSession
        ] = {}  # were in a batch that failed: run alone until it is known why
        self._prompt_leads = False

    def add(self, hop: HopSession) -> None:
        """There are steps in a session's queue."""
        self._waiting[hop.key] = hop

    def suspect(self, hop: HopSession) -> None:
        """A batch with it has failed; its steps wait again."""
        self._suspects[hop.key] = hop
        self.add(hop)

    def clear(self, hop: HopSession) -> None:
        """A batch with it could be computed."""
        self._suspects.pop(hop.key, None)

    def find_ready(self, now: float) -> list[HopSession]:
        """Sessions whose next step may run, once no batch is under way."""
        sessions = self._table.sessions
        self._waiting = {key: hop for key, hop in self._waiting.items() if hop.queue and sessions.get(key) is hop}
        if self._suspects:
            self._suspects = {key: hop for key, hop in self._suspects.items() if sessions.get(key) is hop}
        waiting = self._one_pass_at_a_time(list(self._waiting.values()), now)
        if not any(hop.queue[0].is_prompt for hop in waiting):
            return waiting
        # A prompt's chunks fill the chain, unless others decode in it meanwhile.
        chunks = CHUNKS_WHILE_OTHERS_DECODE if self._count_decoding(now) else CHUNKS_IN_FLIGHT
        return [hop for hop in waiting if not hop.queue[0].is_prompt or hop.has_room(chunks)]

    def gathers(self, ready: Sequence[HopSession], now: float) -> bool:
        """Whether to wait a moment for steps that may run together with those that are ready."""
        first = ready[0]
        here = {hop.key for hop in ready}
        if self._begins_pass(first):  # it costs one pass at most, and once: they share all that follow
            seconds = self._pass_seconds(first.model)
            return any(hop.returns_within(seconds, now) for hop in self._companions(first, here))
        pace = self._table.paces.get(first.model)
        seconds = 0.0 if pace is None else pace.layer_seconds * first.part.layer_count
        if seconds < LONG_SECONDS:
            return False
        return any(hop.is_due(AWAY_SHARE * seconds, now) for hop in self._companions(first, here))

    def _companions(self, first: HopSession, here: Collection[tuple[str, int]]) -> Iterator[HopSession]:
        """Sessions whose steps run together with one's, but for those that are here."""
        for hop in self._table.sessions.values():
            if hop.key not in here and (hop.model, hop.order.part) == (first.model, first.order.part):
                yield hop

    def _one_pass_at_a_time(self, waiting: list[HopSession], now: float) -> list[HopSession]:
        """Without those who would begin a pass while another one is under way."""
        if not any(served.streamed for served in self._table.served.values()):
            return waiting
        if not any(self._is_in_pass(hop, now) for hop in self._table.sessions.values()):
            return waiting
        return [hop for hop in waiting if not self._begins_pass(hop)]

    def _begins_pass(self, hop: HopSession) -> bool:
        """Whether this is the first of several visits of a chain to a node that reads between them."""
        served = self._table.served.get(hop.model)
        if served is None or not served.streamed:
            return False
        stages = [one.order.stage for one in self._table.hops_of(hop.order.session)]
        return len(stages) > 1 and hop.order.stage == min(stages)

    def _is_in_pass(self, first: HopSession, now: float) -> bool:
        """Whether a session has been at its first window here and not yet, for that step, at its last."""
        if not self._begins_pass(first):
            return False
        hops = self._table.hops_of(first.order.session)
        last = max(hops, key=lambda hop: hop.order.stage)
        is_late = now > max(hop.used for hop in hops) + max(1.0, 2 * self._pass_seconds(first.model))
        return last.cached < first.cached and not (first.is_fresh or last.is_fresh or is_late)

    def _pass_seconds(self, model: ModelKey) -> float:
        pace = self._table.paces.get(model)
        return 0.0 if pace is None else pace.layer_seconds * self._table.served[model].part.layer_count

    def choose(self, ready: Sequence[HopSession], now: float) -> list[tuple[HopSession, int]]:
        """Sessions and how many positions of each to run, those for the same next hop beside each other."""
        if len(ready) == 1 and not ready[0].queue[0].is_prompt:
            return [(ready[0], ready[0].queue[0].length)]
        prompts = [hop for hop in ready if hop.queue[0].is_prompt]
        prompt_tokens = self._prompt_tokens(prompts, len(ready) - len(prompts), now)
        candidates = [
            Candidate(
                hop.key,
                (hop.model, hop.order.part),
                self._due(hop, prompt_tokens, len(prompts)),
                hop.queue[0].length,
                hop.queue[0].is_prompt,
                can_cut=hop.order.is_first,
                is_suspect=self._suspects.get(hop.key) is hop,
            )
            for hop in ready
        ]
        chosen = choose_steps(candidates, prompt_tokens, prompt_leads=self._prompt_leads)
        work = [(self._table.sessions[key], length) for key, length in chosen]
        self._prompt_leads = misses_first_prompt(candidates, chosen)
        work.sort(key=lambda item: (item[0].order.next, item[0].order.next_part))
        return work

    def misses_some(self, ready: Sequence[HopSession], now: float) -> bool:
        """Whether some session that decodes through this node is not here with its next step."""
        return sum(not hop.queue[0].is_prompt for hop in ready) < self._count_decoding(now)

    def _count_decoding(self, now: float) -> int:
        return sum(hop.is_decoding(now) for hop in self._table.sessions.values())

    def _due(self, hop: HopSession, prompt_tokens: int, prompts: int) -> float:
        """When its next step would be done if `prompts` of them had equal shares of batches with `prompt_tokens` each.

        Prompts that run in this order are done as early as with equal shares, or earlier: short ones do not wait for long
        ones, and those are not put off for ever by short ones that keep coming.
        """
        pending = hop.queue[0]
        if not pending.is_prompt:
            return pending.arrived
        pace = self._table.paces[hop.model]
        token_seconds = hop.part.layer_count * (pace.layer_seconds / prompt_tokens + pace.prompt_seconds)
        return pending.arrived + pending.arrived_length * token_seconds * prompts

    def _prompt_tokens(self, prompts: Sequence[HopSession], steps: int, now: float) -> int:
        """How much of the waiting prompts may run now without stalling those who decode. steps: of these, that are here.

        Where more wait for their first token than decode, their share grows, or the last would wait for minutes.
        """
        if not prompts:
            return 0
        pace = self._table.paces[prompts[0].model]
        layers = max(1, prompts[0].part.layer_count)
        decoding = self._count_decoding(now)
        if not decoding:
            return pace.chunk(layers)
        return pace.chunk(layers, pace.decode_seconds(layers, max(1, steps)), len(prompts) / decoding)

"""What has been said in a session: the token ids, which are the truth, and what of them the hops' caches may hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from swarm.client.news import Delivered
from swarm.errors import RequestError
from swarm.messages.sampling import Sampling
from swarm.messages.sessions import Tail
from swarm.messages.steps import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer asked for.

    ids: the whole prompt, whatever of it is cached already. scores: how likely each token is wanted, and so many likeliest;
    None: not. given: how the answer begins; it is not drawn, but comes as if it were, for its scores.
    """

    ids: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stop_ids: Sequence[int]
    scores: int | None = None
    given: Sequence[int] = ()


class Transcript:
    """The ids of all turns. A token that never arrived here was never said.

    limit: token ids in all at which the answer ends.
    """

    def __init__(self, context: int) -> None:
        """context: of the model, in tokens."""
        self.ids: list[int] = []
        self.limit = 0
        self._context = context
        self._turn: Turn | None = None
        self._given: list[int] = []  # what comes next without being drawn
        self._cached: list[int] = []  # what the hops' caches may hold a prefix of

    def begin(self, turn: Turn) -> None:
        """Another turn, which may continue what was said, or part of it. Raises RequestError for a prompt that cannot be."""
        if not turn.ids:
            raise RequestError("the prompt is empty")
        if len(turn.ids) >= self._context:
            raise RequestError(f"the prompt has {len(turn.ids)} tokens; the model's context is {self._context}")
        if len(turn.ids) + len(turn.given) > self._context:
            told = f"the prompt and the given answer have {len(turn.ids)} and {len(turn.given)} tokens"
            raise RequestError(f"{told}; the model's context is {self._context}")
        self._cached = self.ids[: common_prefix(self.ids, turn.ids)]
        self.ids = list(turn.ids)
        self._given = list(turn.given)
        self._turn = turn
        self.limit = min(len(turn.ids) + max(turn.max_tokens, len(turn.given)), self._context)

    def take(self, message: Tokens) -> Delivered | None:
        """What is new of the last hop's tokens; None if nothing is, or something before it is missing."""
        skip = len(self.ids) - message.index
        if not 0 <= skip < len(message.ids):
            return None  # the last hop will send what is missing again
        new = message.ids[skip:]
        self.ids += new
        del self._given[: len(new)]
        return Delivered(tuple(new), tuple(message.scores[skip:]))

    def cut(self, keep: int) -> None:
        """Token ids from `keep` on never were."""
        del self.ids[keep:]
        self._given = []
        self.are_cached()

    def are_cached(self) -> None:
        """The hops' caches may hold all that was said."""
        self._cached = list(self.ids)

    def are_forgotten(self) -> None:
        """There is no cache any more."""
        self._cached = []

    @property
    def keep(self) -> int:
        """How many positions of a cache are of use: at least one more is fed, for the next token to come of it."""
        return max(0, min(len(self._cached), len(self.ids) - 1))

    @property
    def tail(self) -> Tail:
        """What the last hop must know of the turn."""
        assert self._turn is not None
        turn = self._turn
        return Tail(
            sampling=turn.sampling,
            stop_ids=list(turn.stop_ids),
            limit=self.limit,
            scores=turn.scores,
            given=len(self._given),
        )

    @property
    def known(self) -> list[int]:
        """What was said, and what is given of the rest."""
        return [*self.ids, *self._given]

    @property
    def fed(self) -> int:
        """How many known ids the hops compute; of a given answer's last token nothing is wanted but how likely it is."""
        return len(self.ids) + max(0, len(self._given) - 1)

    @property
    def rest(self) -> Turn:
        """What is left to be answered of the turn."""
        assert self._turn is not None
        return replace(self._turn, ids=list(self.ids), max_tokens=self.tokens_left, given=list(self._given))

    @property
    def tokens_left(self) -> int:
        """How many the answer may still have."""
        return self.limit - len(self.ids)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading ids two sequences share."""
    low, high = 0, min(len(left), len(right))
    if list(left[:high]) == list(right[:high]):
        return high
    while low < high:  # stretches are compared at once: a hundred times as fast as one id after the other
        middle = (low + high + 1) // 2
        if list(left[low:middle]) == list(right[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low

"""How likely answers are that are given, not drawn: for closed questions, and for whoever compares.

Knows text and tokens; chains and caches are the session's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from swarm.client.news import Delivered
from swarm.client.swarm import Generation
from swarm.client.transcript import Turn, common_prefix
from swarm.errors import RequestError
from swarm.messages.sampling import Sampling
from swarm.messages.steps import Score


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer after a prompt, as token ids: those before it, and its own."""

    text: str
    prompt_ids: Sequence[int]
    ids: Sequence[int]


def encode_answer(tokenizer: Tokenizer, prompt: str, answer: str, *, is_raw: bool) -> GivenAnswer:
    """The tokens of both written one behind the other: where a token holds some of each, it counts as the answer's.

    is_raw: nobody has written the token that begins a text. Raises RequestError where nothing is left of either.
    """
    alone = tokenizer.encode(prompt, add_special_tokens=is_raw).ids
    both = tokenizer.encode(prompt + answer, add_special_tokens=is_raw).ids
    start = common_prefix(alone, both)
    if not start:
        raise RequestError("a score needs a prompt of at least one token before the answer")
    if start == len(both):
        raise RequestError(f'the answer "{answer}" has no token of its own')
    return GivenAnswer(answer, both[:start], both[start:])


def score_answer(generation: Generation, answer: GivenAnswer, likeliest: int = 0) -> Iterator[tuple[int, Score]]:
    """Each token of an answer and how likely it is, as they come; what the session has cached of the prompt is kept."""
    turn = Turn(
        ids=answer.prompt_ids,
        max_tokens=len(answer.ids),
        sampling=Sampling(),
        stop_ids=[],
        scores=likeliest,
        given=answer.ids,
    )
    for event in generation.generate(turn):
        if isinstance(event, Delivered):
            yield from zip(event.ids, event.scores, strict=True)

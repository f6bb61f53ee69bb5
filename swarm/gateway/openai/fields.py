"""Fields that OpenAI's routes share, and what they mean for an answer.

What changes nothing is ignored; what would change the answer in a way that there is not is refused by name.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from swarm.gateway.answers import RunningAnswer
from swarm.gateway.drawing import read_sampling, read_stops
from swarm.gateway.exchange import event
from swarm.gateway.failures import Failure, openai_form, unsupported, wrong
from swarm.messages.sampling import SAMPLING_RANGES, Sampling
from swarm.messages.sessions import MOST_LIKELIEST

MOST_CHOICES = 16
SIGN = ": keep-alive\n\n"  # of life, in a stream
DONE = "data: [DONE]\n\n"  # its end


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class Drawing(Struct, frozen=True, kw_only=True):
    """How tokens are drawn, when an answer ends, in what form it comes."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    timings: bool | None = None
    route: bool | None = None
    why: bool | None = None

    @property
    def choices(self) -> int:
        """How many answers to a prompt. Raises Failure."""
        count = 1 if self.n is None else self.n
        if not 1 <= count <= MOST_CHOICES:
            raise wrong("n", f"1 to {MOST_CHOICES}, got {count}")
        return count

    @property
    def stops(self) -> list[str]:
        """Strings that end an answer. Raises Failure."""
        return read_stops("stop", [self.stop] if isinstance(self.stop, str) else self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Whether a stream tells at its end how many tokens there were. Raises Failure."""
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "goes with stream: true alone")
        return bool(self.stream_options and self.stream_options.include_usage)

    def besides(self, answer: RunningAnswer) -> dict[str, Any]:
        """What of an answer is told only where it was asked for."""
        return answer.describe(has_route=bool(self.route), has_timings=bool(self.timings))

    def sampling(self, defaults: Mapping[str, float]) -> list[Sampling]:
        """How tokens of each choice are drawn. defaults: the model's own. Raises Failure."""
        for name in ("frequency_penalty", "presence_penalty"):
            if getattr(self, name):
                raise unsupported(name, "is not to be had; repetition_penalty is")
        if self.logit_bias:
            raise unsupported("logit_bias", "is not to be had")
        asked = {name: getattr(self, name) for name in SAMPLING_RANGES if name != "seed"}
        seed = secrets.randbelow(1 << 32) if self.seed is None else self.seed
        return [read_sampling(asked, defaults, seed + number) for number in range(self.choices)]


def last_words(failure: Failure) -> str:
    """The end of a stream that cannot go on."""
    return event(openai_form(failure)) + DONE


def likeliest(name: str, count: int) -> int:
    """How many likeliest tokens are told. Raises Failure."""
    if not 0 <= count <= MOST_LIKELIEST:
        raise wrong(name, f"0 to {MOST_LIKELIEST}, got {count}")
    return count


def usage(
    prompt_tokens: int, cached_tokens: int, completion: Sequence[int], reasoning_tokens: int = 0
) -> dict[str, Any]:
    """completion: tokens of each choice."""
    answered = sum(completion)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answered,
        "total_tokens": prompt_tokens + answered,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }

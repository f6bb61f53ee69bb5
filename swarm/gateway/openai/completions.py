"""POST /v1/completions: what follows prompts as they stand, and how likely prompts are."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from swarm.client.answer import Piece
from swarm.gateway.answers import Ask, RunningAnswer, Swarm, together
from swarm.gateway.drawing import at_least
from swarm.gateway.exchange import Exchange, event
from swarm.gateway.failures import unsupported, wrong
from swarm.gateway.models import Models, ServedModel
from swarm.gateway.openai.fields import DONE, SIGN, Drawing, last_words, likeliest, usage
from swarm.gateway.tokens import finite, likeliest_by_text, spell
from swarm.messages.sampling import Sampling
from swarm.messages.steps import Score

DEFAULT_TOKENS = 16
MOST_PROMPTS = 256


class CompletionRequest(Drawing, frozen=True, kw_only=True):
    """https://platform.openai.com/docs/api-reference/completions/create"""

    prompt: str | list[str | int | list[int]]
    max_tokens: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each as text or as token ids. Raises Failure."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        numbers = [one for one in self.prompt if isinstance(one, int)]
        if numbers and len(numbers) == len(self.prompt):
            return [numbers]
        texts = [one for one in self.prompt if not isinstance(one, int)]
        if len(texts) != len(self.prompt) or not 1 <= len(texts) <= MOST_PROMPTS:
            raise wrong("prompt", f"a text, token ids, or a list of up to {MOST_PROMPTS} of either")
        return texts

    @property
    def scores(self) -> int | None:
        return None if self.logprobs is None else likeliest("logprobs", self.logprobs)

    @property
    def wanted_tokens(self) -> int:
        """Of each answer at most. Raises Failure."""
        if self.max_tokens is None:
            return DEFAULT_TOKENS
        return at_least("max_tokens", self.max_tokens, 0 if self.echo else 1)

    def refuse(self) -> None:
        """Raise Failure for what would change the answer in a way that there is not."""
        if self.suffix:
            raise unsupported("suffix", "is not to be had")
        if self.best_of is not None and self.best_of != self.choices:
            raise unsupported("best_of", "is not to be had; n is")


class Completions:
    """Answers to prompts as they stand."""

    def __init__(self, swarm: Swarm, models: Models) -> None:
        self._swarm = swarm
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        asked = await exchange.read(CompletionRequest)
        await exchange.while_listened_to(self._answer(exchange, asked))

    async def _answer(self, exchange: Exchange, asked: CompletionRequest) -> None:
        served = await self._models.find(asked.model)
        asked.refuse()
        samplings = asked.sampling(served.defaults)
        prompts = [await self._encode(served, prompt) for prompt in asked.prompts]
        with ExitStack() as begun:
            choices = [
                begun.enter_context(closing(self._begin(served, asked, number, ids, sampling)))
                for number, (ids, sampling) in enumerate(itertools.product(prompts, samplings))
            ]
            reply = _Reply(exchange, asked, served.card.name, choices, sum(map(len, prompts)))
            await (reply.stream() if asked.stream else exchange.send_result(reply.whole()))

    async def _encode(self, served: ServedModel, prompt: str | list[int]) -> list[int]:
        """The ids of a prompt. Raises Failure for one that cannot be."""
        if isinstance(prompt, str):
            ids = await self._models.in_thread(lambda: served.encode(prompt, is_raw=True))
        else:
            ids = prompt
            if any(not 0 <= one < served.card.vocabulary for one in ids):
                raise wrong("prompt", f"token ids are 0 to {served.card.vocabulary - 1}")
        if not ids:
            raise wrong("prompt", "is empty")
        self._models.require_room(served, ids, "prompt")
        return ids

    def _begin(
        self, served: ServedModel, asked: CompletionRequest, number: int, ids: Sequence[int], sampling: Sampling
    ) -> _Choice:
        """One answer. Of a prompt that is told again with how likely it is, all but the first token are given."""
        echo, scores, wanted = bool(asked.echo), asked.scores, asked.wanted_tokens
        given = ids[1:] if echo and scores is not None else []
        answer = None
        if wanted or given:
            ask = Ask(
                ids=ids[: len(ids) - len(given)],
                max_tokens=len(given) + wanted,
                sampling=sampling,
                stops=asked.stops,
                ignore_end=bool(asked.ignore_eos),
                scores=scores,
                explain=bool(asked.why),
                given=given,
            )
            answer = self._swarm.begin(served, ask)
        return _Choice(number, served, answer, ids, echo=echo, scores=scores)


@dataclass(slots=True)
class _Rows:
    """What is told of tokens, one beside the other."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]

    def told(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }


class _Choice:
    """One answer to one prompt. answer: None where nothing has to be computed for it."""

    def __init__(
        self,
        number: int,
        served: ServedModel,
        answer: RunningAnswer | None,
        prompt: Sequence[int],
        *,
        echo: bool,
        scores: int | None,
    ) -> None:
        self.number = number
        self.answer = answer
        self._served = served
        self._prompt = prompt
        self._echo = echo
        self._scores = scores
        self._offset = 0  # characters that rows have told of

    @property
    def finish(self) -> str:
        return "length" if self.answer is None else self.answer.finish

    @property
    def completion_tokens(self) -> int:
        return 0 if self.answer is None else len(self.answer.answer.ids) - len(self.answer.ask.given)

    @property
    def cached_tokens(self) -> int:
        return 0 if self.answer is None else self.answer.cached_tokens

    async def wait_for_place(self) -> list[Piece]:
        return [] if self.answer is None else await self.answer.wait_for_place()

    async def read(self) -> list[Piece]:
        return [] if self.answer is None else await self.answer.read()

    def close(self) -> None:
        if self.answer is not None:
            self.answer.close()

    def begin(self) -> tuple[str, _Rows]:
        """What is told before the answer: of a prompt that is told again, what no piece will tell."""
        rows = _Rows([], [], [], [])
        if not self._echo:
            return "", rows
        told = self._prompt if self._scores is None else self._prompt[:1]
        text = self._served.tokenizer.decode(list(told), skip_special_tokens=False)
        if self._scores is not None:
            self._tell(rows, told[0], None)
        return text, rows

    def describe(self, pieces: Sequence[Piece]) -> tuple[str, _Rows]:
        """The text that new pieces let out, and how likely their tokens were."""
        rows = _Rows([], [], [], [])
        for piece in pieces:
            if self._scores is not None:
                self._tell(rows, piece.token, piece.score)
        return "".join(piece.text for piece in pieces), rows

    def _tell(self, rows: _Rows, token: int, score: Score | None) -> None:
        text = spell(self._served.tokenizer, token)
        rows.tokens.append(text)
        rows.token_logprobs.append(None if score is None else finite(score.log_probability))
        rows.top_logprobs.append(None if score is None else likeliest_by_text(self._served.tokenizer, token, score))
        rows.text_offset.append(self._offset)
        self._offset += len(text)

    @property
    def rest(self) -> str:
        return "" if self.answer is None else self.answer.rest

    def told(self, text: str, rows: _Rows, finish: str | None) -> dict[str, Any]:
        return {
            "index": self.number,
            "text": text,
            "logprobs": None if self._scores is None else rows.told(),
            "finish_reason": finish,
        }


class _Reply:
    """What is sent of some choices."""

    def __init__(
        self,
        exchange: Exchange,
        asked: CompletionRequest,
        model: str,
        choices: Sequence[_Choice],
        prompt_tokens: int,
    ) -> None:
        """prompt_tokens: of all prompts, each counted once. Raises Failure."""
        self._exchange = exchange
        self._asked = asked
        self._wants_usage = asked.wants_usage
        self._choices = choices
        self._prompt_tokens = prompt_tokens
        self._common = {
            "id": f"cmpl-{exchange.id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    async def whole(self) -> dict[str, Any]:
        """All at once."""
        told = await together(self._collect(choice) for choice in self._choices)
        return {**self._common, "choices": told, "usage": self._usage()}

    async def _collect(self, choice: _Choice) -> dict[str, Any]:
        text, rows = choice.begin()
        while not choice.finish:
            more, new = choice.describe(await choice.read())
            text += more
            for name, values in new.told().items():
                getattr(rows, name).extend(values)
        return {**choice.told(text + choice.rest, rows, choice.finish), **self._besides(choice)}

    def _besides(self, choice: _Choice) -> dict[str, Any]:
        return {} if choice.answer is None else self._asked.besides(choice.answer)

    async def stream(self) -> None:
        """As it comes."""
        begun = await together(choice.wait_for_place() for choice in self._choices)
        async with self._exchange.stream(lambda: SIGN, last_words):
            await together(self._follow(choice, pieces) for choice, pieces in zip(self._choices, begun, strict=True))
            last = {**self._common, "choices": [], "usage": self._usage()}
            self._exchange.end_with((event(last) if self._wants_usage else "") + DONE)

    async def _follow(self, choice: _Choice, pieces: Sequence[Piece]) -> None:
        async def write(text: str, rows: _Rows, finish: str | None = None) -> None:
            if text or rows.tokens or finish:
                one = {**choice.told(text, rows, finish), **(self._besides(choice) if finish else {})}
                chunk: dict[str, Any] = {**self._common, "choices": [one]}
                await self._exchange.write(event({**chunk, "usage": None} if self._wants_usage else chunk))

        await write(*choice.begin())
        while True:
            for piece in pieces:  # one by one, whatever has come together: the same bytes each time
                await write(*choice.describe([piece]))
            if choice.finish:
                break
            pieces = await choice.read()
        text, rows = choice.describe([])
        await write(text + choice.rest, rows, choice.finish)

    def _usage(self) -> dict[str, Any]:
        cached = sum(choice.cached_tokens for choice in self._choices)
        return usage(self._prompt_tokens, cached, [choice.completion_tokens for choice in self._choices])

"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal

from msgspec import Struct

from swarm.client.answer import Piece
from swarm.client.prompts import Message
from swarm.gateway.answers import Ask, RunningAnswer, Swarm, together
from swarm.gateway.drawing import at_least
from swarm.gateway.exchange import Exchange, event
from swarm.gateway.failures import unsupported, wrong
from swarm.gateway.models import Models, ServedModel, Talk
from swarm.gateway.openai.fields import DONE, SIGN, Drawing, last_words, likeliest, usage
from swarm.gateway.spoken import Said, Spoken
from swarm.gateway.tokens import describe

IGNORED_TOOLS = ("none", "auto")


class ContentPart(Struct, frozen=True):
    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None


class ChatRequest(Drawing, frozen=True, kw_only=True):
    """https://platform.openai.com/docs/api-reference/chat/create"""

    messages: list[ChatMessage]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """Of an answer at most; None: as many as there is room for. Raises Failure."""
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        told = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(told) > 1:
            raise wrong(name, f"differs from max_tokens: {self.max_completion_tokens} and {self.max_tokens}")
        count = next(iter(told), None)
        return None if count is None else at_least(name, count)

    @property
    def scores(self) -> int | None:
        """How many likeliest tokens come with each one; None: not even how likely it was. Raises Failure."""
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("top_logprobs", "goes with logprobs: true alone")
        return likeliest("top_logprobs", self.top_logprobs or 0) if self.logprobs else None

    @property
    def thinking(self) -> bool | None:
        """Whether a model that can think first does; None: as it is used to."""
        told = (self.chat_template_kwargs or {}).get("enable_thinking")
        if isinstance(told, bool):
            return told
        return None if self.reasoning_effort is None else self.reasoning_effort != "none"

    def said(self) -> list[Message]:
        """The conversation. Raises Failure."""
        if not self.messages:
            raise wrong("messages", "one or more")
        return read_messages(self.messages)

    def refuse(self) -> None:
        """Raise Failure for what would change the answer in a way that there is not."""
        for name in ("tools", "functions"):
            if getattr(self, name):
                raise unsupported(name, "are not to be had: this model server only writes text")
        if self.tool_choice is not None and self.tool_choice not in IGNORED_TOOLS:
            raise unsupported("tool_choice", "there are no tools")
        if self.response_format is not None and self.response_format.get("type") != "text":
            raise unsupported("response_format", "only text is to be had")
        if self.modalities not in (None, ["text"]):
            raise unsupported("modalities", "only text is to be had")


def read_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """As templates know them. Raises Failure for what is no text."""
    return [
        Message(
            "system" if message.role == "developer" else message.role,
            join_text(message.content, f"messages[{place}].content"),
        )
        for place, message in enumerate(messages)
    ]


def join_text(content: str | Sequence[ContentPart] | None, field: str, kinds: Collection[str] = ("text",)) -> str:
    """What is said in parts of some kinds. Raises Failure for others."""
    if content is None or isinstance(content, str):
        return content or ""
    for place, part in enumerate(content):
        if part.type not in kinds or part.text is None:
            raise unsupported(f"{field}[{place}].type", f'only text is read, not "{part.type}"')
    return "".join(part.text or "" for part in content)


class Chat:
    """Answers to conversations."""

    def __init__(self, swarm: Swarm, models: Models) -> None:
        self._swarm = swarm
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        asked = await exchange.read(ChatRequest)
        await exchange.while_listened_to(self._answer(exchange, asked))

    async def _answer(self, exchange: Exchange, asked: ChatRequest) -> None:
        served = await self._models.find(asked.model)
        asked.refuse()
        talk = Talk(asked.said(), asked.thinking)
        samplings = asked.sampling(served.defaults)
        prompt = await self._models.encode_talk(served, talk)
        asks = [
            Ask(
                ids=prompt.ids,
                max_tokens=asked.wanted_tokens,
                sampling=sampling,
                stops=[*asked.stops, *(served.form.stops if served.form else ())],
                ignore_end=bool(asked.ignore_eos),
                scores=asked.scores,
                explain=bool(asked.why),
            )
            for sampling in samplings
        ]
        with ExitStack() as begun:
            answers = [begun.enter_context(closing(self._swarm.begin(served, ask))) for ask in asks]
            choices = [_Choice(number, answer, served, prompt.is_thinking) for number, answer in enumerate(answers)]
            reply = _Reply(exchange, asked, served.card.name, choices)
            await (reply.stream() if asked.stream else exchange.send_result(reply.whole()))


class _Choice:
    """One of the answers, as what is said and what is only thought."""

    def __init__(self, number: int, answer: RunningAnswer, served: ServedModel, is_thinking: bool) -> None:
        self.number = number
        self.answer = answer
        self.spoken = Spoken(is_thinking)
        self._served = served

    def read(self, pieces: Sequence[Piece]) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """What new pieces add to the message, by the fields of a delta; and how likely their tokens were."""
        scores = [describe(self._served.tokenizer, piece.token, piece.score) for piece in pieces if piece.score]
        return _by_field(self.spoken.read(pieces)), scores

    def finish(self) -> dict[str, str]:
        """The rest of it."""
        return _by_field(self.spoken.finish(self.answer.rest))


class _Reply:
    """What is sent of some choices."""

    def __init__(self, exchange: Exchange, asked: ChatRequest, model: str, choices: Sequence[_Choice]) -> None:
        """Raises Failure."""
        self._exchange = exchange
        self._asked = asked
        self._wants_usage = asked.wants_usage
        self._choices = choices
        self._common = {"id": f"chatcmpl-{exchange.id}", "created": int(time.time()), "model": model}

    async def whole(self) -> dict[str, Any]:
        """All at once."""
        told = await together(self._collect(choice) for choice in self._choices)
        return {**self._common, "object": "chat.completion", "choices": told, "usage": self._usage()}

    async def _collect(self, choice: _Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        rows: list[dict[str, Any]] = []
        while not choice.answer.finish:
            delta, scores = choice.read(await choice.answer.read())
            rows += scores
            _add(message, delta)
        _add(message, choice.finish())
        return {
            "index": choice.number,
            "message": message,
            "logprobs": None if choice.answer.ask.scores is None else {"content": rows, "refusal": None},
            "finish_reason": choice.answer.finish,
            **self._asked.besides(choice.answer),
        }

    async def stream(self) -> None:
        """As it comes."""
        begun = await together(choice.answer.wait_for_place() for choice in self._choices)
        async with self._exchange.stream(lambda: SIGN, last_words):
            for choice in self._choices:
                await self._write(choice, {"role": "assistant", "content": ""})
            await together(self._follow(choice, pieces) for choice, pieces in zip(self._choices, begun, strict=True))
            last = {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
            self._exchange.end_with((event(last) if self._wants_usage else "") + DONE)

    async def _follow(self, choice: _Choice, pieces: Sequence[Piece]) -> None:
        while True:
            for piece in pieces:  # one by one, whatever has come together: the same bytes each time
                delta, scores = choice.read([piece])
                if delta or scores:
                    await self._write(choice, delta, scores)
            if choice.answer.finish:
                break
            pieces = await choice.answer.read()
        rest = choice.finish()
        if rest:
            await self._write(choice, rest)
        await self._write(choice, {}, finish=choice.answer.finish)

    async def _write(
        self,
        choice: _Choice,
        delta: Mapping[str, str],
        scores: Sequence[dict[str, Any]] = (),
        *,
        finish: str | None = None,
    ) -> None:
        one: dict[str, Any] = {
            "index": choice.number,
            "delta": delta,
            "logprobs": {"content": list(scores), "refusal": None} if scores else None,
            "finish_reason": finish,
            **(self._asked.besides(choice.answer) if finish else {}),
        }
        chunk: dict[str, Any] = {**self._common, "object": "chat.completion.chunk", "choices": [one]}
        await self._exchange.write(event({**chunk, "usage": None} if self._wants_usage else chunk))

    def _usage(self) -> dict[str, Any]:
        answers = [choice.answer for choice in self._choices]
        return usage(
            len(answers[0].ask.ids),
            answers[0].cached_tokens,
            [len(answer.answer.ids) for answer in answers],
            sum(choice.spoken.reasoning_tokens for choice in self._choices),
        )


def _by_field(said: Sequence[Said]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text, is_thought in said:
        name = "reasoning_content" if is_thought else "content"
        found[name] = found.get(name, "") + text
    return found


def _add(message: dict[str, Any], delta: Mapping[str, str]) -> None:
    for name, text in delta.items():
        message[name] = message.get(name, "") + text

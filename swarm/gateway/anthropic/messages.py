"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Literal

from msgspec import Struct

from swarm.client.prompts import Message
from swarm.gateway.answers import Ask, RunningAnswer, Swarm
from swarm.gateway.drawing import at_least, read_sampling, read_stops
from swarm.gateway.exchange import Exchange, event
from swarm.gateway.failures import Failure, anthropic_form, unsupported, wrong
from swarm.gateway.models import Models, Prompt, ServedModel, Talk
from swarm.gateway.spoken import Said, Spoken
from swarm.messages.sampling import Sampling

PING = event({"type": "ping"}, "ping")
DROPPED = ("thinking", "redacted_thinking")  # what earlier answers were thought with
BILLING = "x-anthropic-billing-header"  # a block that begins so is new in every request, and says nothing to a model
STOP_REASONS = {"length": "max_tokens", "stop": "end_turn"}


class Block(Struct, frozen=True):
    type: str
    text: str | None = None


class TalkMessage(Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Thinking(Struct, frozen=True):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]


class TalkRequest(Struct, frozen=True, kw_only=True):
    """https://docs.anthropic.com/en/api/messages-count-tokens"""

    model: str
    messages: list[TalkMessage]
    system: str | list[Block] | None = None
    thinking: Thinking | None = None
    tools: list[Any] | None = None
    tool_choice: dict[str, Any] | None = None

    def talk(self) -> Talk:
        """The conversation; an answer that has begun is gone on with. Raises Failure."""
        if not self.messages:
            raise wrong("messages", "one or more")
        if self.tools:
            raise unsupported("tools", "are not to be had: this model server only writes text")
        if self.tool_choice is not None and self.tool_choice.get("type") not in ("none", "auto"):
            raise unsupported("tool_choice", "there are no tools")
        said = [Message("system", text)] if (text := join_blocks(self.system, "system")) else []
        for place, message in enumerate(self.messages):
            text = join_blocks(message.content, f"messages.{place}.content")
            if said and said[-1].role == message.role:
                said[-1] = Message(message.role, f"{said[-1].content}\n{text}")
            else:
                said.append(Message(message.role, text))
        begun = said.pop().content if said[-1].role == "assistant" else ""
        thinking = None if self.thinking is None else self.thinking.type != "disabled"
        return Talk(said, thinking, begun)


class MessagesRequest(TalkRequest, frozen=True, kw_only=True):
    """https://docs.anthropic.com/en/api/messages"""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    output_config: dict[str, Any] | None = None

    @property
    def stops(self) -> list[str]:
        """Raises Failure."""
        return read_stops("stop_sequences", self.stop_sequences or [])

    def sampling(self, served: ServedModel) -> Sampling:
        """Raises Failure."""
        if (self.output_config or {}).get("format") is not None:
            raise unsupported("output_config.format", "only text is to be had")
        asked = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return read_sampling(asked, served.defaults, secrets.randbelow(1 << 32))


def join_blocks(content: str | Sequence[Block] | None, field: str) -> str:
    """What is said in blocks of text. Raises Failure for others."""
    if content is None or isinstance(content, str):
        return content or ""
    found: list[str] = []
    for place, block in enumerate(content):
        if block.type in DROPPED or (block.text or "").startswith(BILLING):
            continue
        if block.type != "text" or block.text is None:
            raise unsupported(f"{field}.{place}.type", f'only "text" is read, not "{block.type}"')
        found.append(block.text)
    return "".join(found)


class CountTokens:
    """How long a conversation is."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        asked = await exchange.read(TalkRequest)
        served = await self._models.find(asked.model)
        prompt = await self._models.encode_talk(served, asked.talk())
        await exchange.send_json(200, {"input_tokens": len(prompt.ids)})


class Messages:
    """Answers to conversations."""

    def __init__(self, swarm: Swarm, models: Models) -> None:
        self._swarm = swarm
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        asked = await exchange.read(MessagesRequest)
        await exchange.while_listened_to(self._answer(exchange, asked))

    async def _answer(self, exchange: Exchange, asked: MessagesRequest) -> None:
        served = await self._models.find(asked.model)
        talk, stops, sampling = asked.talk(), asked.stops, asked.sampling(served)
        prompt = await self._models.encode_talk(served, talk)
        ask = Ask(
            ids=prompt.ids,
            max_tokens=at_least("max_tokens", asked.max_tokens),
            sampling=sampling,
            stops=[*stops, *(served.form.stops if served.form else ())],
        )
        with closing(self._swarm.begin(served, ask)) as answer:
            reply = _Reply(exchange, served.card.name, answer, prompt, stops)
            await (reply.stream() if asked.stream else exchange.send_result(reply.whole()))


class _Reply:
    """What is sent of an answer."""

    def __init__(
        self, exchange: Exchange, model: str, answer: RunningAnswer, prompt: Prompt, stops: Sequence[str]
    ) -> None:
        """stops: those that the caller has named."""
        self._exchange = exchange
        self._model = model
        self._answer = answer
        self._spoken = Spoken(prompt.is_thinking, prompt.has_begun)
        self._stops = stops
        self._blocks = 0  # that have begun
        self._is_thought: bool | None = None  # of the block under way; None: there is none

    async def whole(self) -> dict[str, Any]:
        """All at once."""
        said: list[Said] = []
        while not self._answer.finish:
            said += self._spoken.read(await self._answer.read())
        said += self._spoken.finish(self._answer.rest)
        content: list[dict[str, Any]] = []
        thought = "".join(text for text, is_thought in said if is_thought)
        if thought:
            content.append({"type": "thinking", "thinking": thought, "signature": ""})
        content.append({"type": "text", "text": "".join(text for text, is_thought in said if not is_thought)})
        return {**self._message(content), **self._end()}

    async def stream(self) -> None:
        """As it comes."""
        pieces = await self._answer.wait_for_place()
        async with self._exchange.stream(lambda: PING, self._fail):
            await self._write("message_start", message={**self._message([]), **self._begin()})
            while True:
                for piece in pieces:  # one by one, whatever has come together: the same bytes each time
                    await self._tell(self._spoken.read([piece]))
                if self._answer.finish:
                    break
                pieces = await self._answer.read()
            await self._tell(self._spoken.finish(self._answer.rest))
            if self._is_thought is not False:
                await self._begin_block(is_thought=False)  # an answer has a text, if only an empty one
            await self._end_block()
            told = self._end()
            delta = {name: told[name] for name in ("stop_reason", "stop_sequence")}
            await self._write("message_delta", delta=delta, usage=told["usage"])
            self._exchange.end_with(event({"type": "message_stop"}, "message_stop"))

    def _fail(self, failure: Failure) -> str:
        return event(anthropic_form(failure, self._exchange.id), "error")

    async def _tell(self, said: Sequence[Said]) -> None:
        for text, is_thought in said:
            if self._is_thought is not is_thought:
                await self._begin_block(is_thought=is_thought)
            delta = {"type": "thinking_delta", "thinking": text} if is_thought else {"type": "text_delta", "text": text}
            await self._write("content_block_delta", index=self._blocks - 1, delta=delta)

    async def _begin_block(self, *, is_thought: bool) -> None:
        if self._is_thought is not None:
            await self._end_block()
        block = {"type": "thinking", "thinking": "", "signature": ""} if is_thought else {"type": "text", "text": ""}
        await self._write("content_block_start", index=self._blocks, content_block=block)
        self._blocks += 1
        self._is_thought = is_thought

    async def _end_block(self) -> None:
        index = self._blocks - 1
        if self._is_thought:
            delta = {"type": "signature_delta", "signature": ""}
            await self._write("content_block_delta", index=index, delta=delta)
        await self._write("content_block_stop", index=index)
        self._is_thought = None

    async def _write(self, name: str, **told: object) -> None:
        await self._exchange.write(event({"type": name, **told}, name))

    def _message(self, content: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"msg_{self._exchange.id}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": list(content),
        }

    def _begin(self) -> dict[str, Any]:
        """The same before it has begun."""
        return {"stop_reason": None, "stop_sequence": None, "usage": self._usage(0)}

    def _end(self) -> dict[str, Any]:
        """Why it ended, and how many tokens there were."""
        answer = self._answer
        stop = answer.answer.stopped_by
        reason = STOP_REASONS.get(answer.finish)
        if stop not in self._stops:
            stop = None
        return {
            "stop_reason": "stop_sequence" if stop else reason,
            "stop_sequence": stop,
            "usage": self._usage(len(answer.answer.ids)),
        }

    def _usage(self, answered: int) -> dict[str, int]:
        answer = self._answer
        return {
            "input_tokens": len(answer.ask.ids) - answer.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": answer.cached_tokens,
            "output_tokens": answered,
        }

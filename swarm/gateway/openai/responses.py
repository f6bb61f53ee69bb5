"""POST /v1/responses, and GET and DELETE of what is kept of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from swarm.client.answer import Piece
from swarm.client.prompts import Message
from swarm.gateway.answers import Ask, RunningAnswer, Swarm
from swarm.gateway.drawing import at_least, read_sampling
from swarm.gateway.exchange import Exchange, event
from swarm.gateway.failures import Failure
from swarm.gateway.models import Models, Prompt, ServedModel, Talk
from swarm.gateway.openai.responses_request import ResponsesRequest
from swarm.gateway.openai.stored import StoredAnswers
from swarm.gateway.spoken import Said, Spoken
from swarm.gateway.tokens import describe


class KeptResponse:
    """One that is kept: read, or forgotten."""

    def __init__(self, stored: StoredAnswers) -> None:
        self._stored = stored

    async def __call__(self, exchange: Exchange) -> None:
        name = exchange.scope["path_params"]["response"]
        found = self._stored.find(name, time.monotonic())
        if found is None:
            raise Failure(404, f'there is no response "{name[:100]}"; they are kept for an hour')
        if exchange.scope["method"] == "DELETE":
            self._stored.forget(name)
            await exchange.send_json(200, {"id": name, "object": "response", "deleted": True})
        else:
            await exchange.send_json(200, found.told)


class Responses:
    """Answers to conversations, which a later request may go on from."""

    def __init__(self, swarm: Swarm, models: Models, stored: StoredAnswers) -> None:
        self._swarm = swarm
        self._models = models
        self._stored = stored

    async def __call__(self, exchange: Exchange) -> None:
        asked = await exchange.read(ResponsesRequest)
        await exchange.while_listened_to(self._answer(exchange, asked))

    async def _answer(self, exchange: Exchange, asked: ResponsesRequest) -> None:
        served = await self._models.find(asked.model)
        asked.refuse()
        before: Sequence[Message] = []
        if asked.previous_response_id is not None:
            before = self._stored.require(asked.previous_response_id, time.monotonic()).said
        said = [*before, *asked.said()]
        told_first = [Message("system", asked.instructions)] if asked.instructions else []
        sampling = read_sampling(
            {"temperature": asked.temperature, "top_p": asked.top_p}, served.defaults, secrets.randbelow(1 << 32)
        )
        wanted = None if asked.max_output_tokens is None else at_least("max_output_tokens", asked.max_output_tokens)
        scores = asked.scores
        prompt = await self._models.encode_talk(served, Talk([*told_first, *said], asked.thinking, field="input"))
        ask = Ask(
            ids=prompt.ids,
            max_tokens=wanted,
            sampling=sampling,
            stops=served.form.stops if served.form else (),
            scores=scores,
        )
        with closing(self._swarm.begin(served, ask)) as answer:
            reply = _Reply(exchange, asked, served, answer, prompt)
            await (reply.stream() if asked.stream else exchange.send_result(reply.whole()))
            if asked.store is not False and reply.is_over:
                spoken = [*said, Message("assistant", reply.text)]
                self._stored.keep(reply.id, spoken, reply.response(), time.monotonic())


class _Reply:
    """What is sent of an answer."""

    def __init__(
        self, exchange: Exchange, asked: ResponsesRequest, served: ServedModel, answer: RunningAnswer, prompt: Prompt
    ) -> None:
        self.id = f"resp_{exchange.id}"
        self.text = self.thought = ""
        self.is_over = False
        self._exchange = exchange
        self._asked = asked
        self._served = served
        self._answer = answer
        self._spoken = Spoken(prompt.is_thinking)
        self._created = int(time.time())
        self._scores: list[dict[str, Any]] = []  # of all tokens
        self._untold = 0  # of these, from here on
        self._number = 0  # of the next event
        self._open: bool | None = None  # whether the item under way is thought; None: there is none
        self._failure: Failure | None = None

    async def whole(self) -> dict[str, Any]:
        """All at once."""
        while not self._answer.finish:
            self._take(self._read(await self._answer.read()))
        self._take(self._spoken.finish(self._answer.rest))
        self.is_over = True
        return self.response()

    async def stream(self) -> None:
        """As it comes."""
        pieces = await self._answer.wait_for_place()
        async with self._exchange.stream(self._sign, self._fail):
            await self._write("response.created", response=self.response())
            await self._write("response.in_progress", response=self.response())
            while True:
                for piece in pieces:  # one by one, whatever has come together: the same bytes each time
                    await self._tell(self._read([piece]))
                if self._answer.finish:
                    break
                pieces = await self._answer.read()
            await self._tell(self._spoken.finish(self._answer.rest))
            if self._open is not False:
                await self._begin_item(is_thought=False)  # an answer has a text, if only an empty one
            await self._end_item()
            self.is_over = True
            self._exchange.end_with(self._last_event())

    def _fail(self, failure: Failure) -> str:
        self._failure = failure
        return self._last_event()

    def _last_event(self) -> str:
        response = self.response()
        return self._event(f"response.{response['status']}", response=response)

    def _read(self, pieces: Sequence[Piece]) -> list[Said]:
        self._scores += [
            describe(self._served.tokenizer, piece.token, piece.score) for piece in pieces if piece.score is not None
        ]
        return self._spoken.read(pieces)

    def _take(self, said: Sequence[Said]) -> None:
        for text, is_thought in said:
            if is_thought:
                self.thought += text
            else:
                self.text += text

    # Events -----------------------------------------------------------------------------------------------------------

    def _event(self, name: str, **told: object) -> str:
        number, self._number = self._number, self._number + 1
        return event({"type": name, "sequence_number": number, **told}, name)

    def _sign(self) -> str:
        return self._event("response.in_progress", response=self.response())

    async def _write(self, name: str, **told: object) -> None:
        await self._exchange.write(self._event(name, **told))

    async def _tell(self, said: Sequence[Said]) -> None:
        for text, is_thought in said:
            if self._open is not is_thought:
                await self._begin_item(is_thought=is_thought)
            self._take([(text, is_thought)])
            if is_thought:
                await self._write("response.reasoning_text.delta", **self._place(), delta=text)
            else:
                scores, self._untold = self._scores[self._untold :], len(self._scores)
                await self._write("response.output_text.delta", **self._place(), delta=text, logprobs=scores)

    async def _begin_item(self, *, is_thought: bool) -> None:
        if self._open is not None:
            await self._end_item()
        self._open = is_thought
        item = {**self._item(is_thought=is_thought), "content": []}
        if not is_thought:
            item["status"] = "in_progress"
        await self._write("response.output_item.added", output_index=self._index, item=item)
        if not is_thought:
            await self._write("response.content_part.added", **self._place(), part=_text_part("", []))

    async def _end_item(self) -> None:
        item = self._item(is_thought=bool(self._open))
        if self._open:
            await self._write("response.reasoning_text.done", **self._place(), text=self.thought)
        else:
            await self._write("response.output_text.done", **self._place(), text=self.text, logprobs=self._scores)
            await self._write("response.content_part.done", **self._place(), part=item["content"][0])
        await self._write("response.output_item.done", output_index=self._index, item=item)

    @property
    def _index(self) -> int:
        """Of the item under way: what is said comes after what is thought."""
        return 1 if self.thought and not self._open else 0

    def _place(self) -> dict[str, Any]:
        item = self._item(is_thought=bool(self._open))
        return {"item_id": item["id"], "output_index": self._index, "content_index": 0}

    # What it is -------------------------------------------------------------------------------------------------------

    def _item(self, *, is_thought: bool) -> dict[str, Any]:
        if is_thought:
            content = [{"type": "reasoning_text", "text": self.thought}]
            return {"id": f"rs_{self._exchange.id}", "type": "reasoning", "summary": [], "content": content}
        return {
            "id": f"msg_{self._exchange.id}",
            "type": "message",
            "role": "assistant",
            "status": "completed" if self._answer.finish != "length" else "incomplete",
            "content": [_text_part(self.text, self._scores)],
        }

    def response(self) -> dict[str, Any]:
        """The response as it is by now."""
        asked, answer = self._asked, self._answer
        is_cut = self.is_over and answer.finish == "length"
        status = "incomplete" if is_cut else "completed" if self.is_over else "in_progress"
        error: Mapping[str, str] | None = None
        if self._failure is not None:
            status = "failed"
            error = {"code": "server_error", "message": self._failure.message}
        output = [self._item(is_thought=True)] if self.thought else []
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._served.card.name,
            "output": [*output, self._item(is_thought=False)] if self.is_over else [],
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "parallel_tool_calls": False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": asked.reasoning or {"effort": None, "summary": None},
            "store": asked.store is not False,
            "temperature": answer.ask.sampling.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": answer.ask.sampling.top_p,
            "truncation": "disabled",
            "usage": self._usage() if self.is_over else None,
        }

    def _usage(self) -> dict[str, Any]:
        prompt, answered = len(self._answer.ask.ids), len(self._answer.answer.ids)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self._answer.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": self._spoken.reasoning_tokens},
            "total_tokens": prompt + answered,
        }


def _text_part(text: str, scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(scores)}

"""The models that the swarm serves, with what it takes to write prompts for them and to read their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypeVar

from tokenizers import Tokenizer

from swarm.client.documents import Documents
from swarm.client.prompts import Message, PromptForm, read_defaults
from swarm.client.renderer import Renderer
from swarm.client.swarm import SwarmClient, missing_of
from swarm.client.text import THOUGHT_BEGIN
from swarm.errors import SwarmError
from swarm.gateway.failures import Failure, failure_of
from swarm.messages.files import ModelCard

FIND_SECONDS = 6.0  # for the first node to be heard of, after a start
THREADS = 4  # that wait for the swarm, and encode prompts
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, and how text becomes its tokens. defaults: of sampling, as its authors want it."""

    card: ModelCard
    tokenizer: Tokenizer
    form: PromptForm | None
    defaults: Mapping[str, float]
    renderer: Renderer = field(default_factory=Renderer)
    lock: Lock = field(default_factory=Lock)  # of the renderer, which does one thing at a time

    def write_prompt(self, messages: Sequence[Message], thinking: bool | None = None) -> str:
        """What asks the model for the next answer. Raises WeightsError if its template fails."""
        if self.form is None:
            return "".join(message.content for message in messages)
        with self.lock:
            return self.renderer.render(self.form.template, self.form.variables(messages, thinking))

    def encode(self, text: str, *, is_raw: bool) -> list[int]:
        """is_raw: nobody has written the token that begins a text; a template does that itself."""
        return self.tokenizer.encode(text, add_special_tokens=is_raw).ids


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation that is to be gone on with.

    thinking: whether a model that can think first does; None: as it is used to. begun: how the answer begins, which the
    caller has written. field: of the request that tells it.
    """

    messages: Sequence[Message]
    thinking: bool | None = None
    begun: str = ""
    field: str = "messages"


@dataclass(frozen=True, slots=True)
class Prompt:
    """is_thinking: it has opened a thought, with which the answer goes on. has_begun: it ends with some of the answer."""

    ids: Sequence[int]
    is_thinking: bool
    has_begun: bool


class Models:
    """Models by the names that callers know; what is fetched of one is kept."""

    def __init__(self, client: SwarmClient, cache: Path) -> None:
        """cache: a directory for what nodes are asked for once."""
        self._client = client
        self._cache = cache
        self._known: dict[str, ServedModel] = {}  # by id
        self._threads = ThreadPoolExecutor(THREADS, "gateway")

    async def in_thread(self, act: Callable[[], Result]) -> Result:
        """What takes a while, beside the event loop. Raises Failure for what the swarm says."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        except SwarmError as error:
            raise failure_of(error, 0.5) from None

    async def find(self, name: str) -> ServedModel:
        """The model of a name or id. Raises Failure if there is none, or no chain serves it all."""
        missing = missing_of(self._client.beats, name)
        complete = [model for model, lacking in missing.items() if lacking.is_empty()]
        known = self._known.get(complete[0]) if len(complete) == 1 else None
        return known or await self.in_thread(lambda: self._load(name))

    async def find_or_only(self, name: str | None) -> ServedModel:
        """The same; without a name the only model that there is. Raises Failure."""
        if name is not None:
            return await self.find(name)
        served = await self.all_served()
        if len(served) != 1:
            names = ", ".join(one.card.name for one in served) or "none"
            raise Failure(400, f"model: choose one of {names}", "model")
        return served[0]

    def _load(self, name: str) -> ServedModel:
        card = self._client.card(self._client.find_model(name, 0.0 if self._client.beats else FIND_SECONDS))
        documents = Documents(self._client, card, self._cache)
        tokenizer = documents.tokenizer()
        defaults = read_defaults(documents.read("generation_config.json"))
        return self._known.setdefault(
            card.model, ServedModel(card, tokenizer, documents.prompt_form(tokenizer), defaults)
        )

    async def encode_talk(self, served: ServedModel, talk: Talk) -> Prompt:
        """A conversation as the prompt for its next answer. Raises Failure."""

        def encode() -> Prompt:
            text = served.write_prompt(talk.messages, talk.thinking) + talk.begun
            ids = served.encode(text, is_raw=served.form is None)
            return Prompt(ids, text.rstrip().endswith(THOUGHT_BEGIN), bool(talk.begun))

        prompt = await self.in_thread(encode)
        self.require_room(served, prompt.ids, talk.field)
        return prompt

    async def all_served(self) -> list[ServedModel]:
        """Those of which a chain serves all, by name."""
        missing = missing_of(self._client.beats, None)
        complete = [model for model, lacking in missing.items() if lacking.is_empty()]
        found = [await self.find(model) for model in complete]
        return sorted(found, key=lambda one: (one.card.name, one.card.model))

    def require_room(self, served: ServedModel, ids: Sequence[int], field_name: str) -> None:
        """Raise Failure for a prompt that leaves no room for an answer."""
        context = served.card.context
        if len(ids) >= context:
            told = f"this model's maximum context length is {context} tokens; the prompt has {len(ids)}"
            raise Failure(400, told, field_name, "context_length_exceeded")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

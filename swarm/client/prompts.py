"""How a conversation is written as a prompt: the checkpoint's chat template, or the form that its tokens suggest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from tokenizers import Tokenizer

from swarm.messages.sampling import SAMPLING_RANGES

TEMPLATE_LIMIT = 256 << 10
FALCON_TOKEN = ">>ABSTRACT<<"  # in the vocabulary of every Falcon of the first generation


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class PromptForm:
    """A jinja template and the strings that end an answer written in it."""

    template: str
    stops: tuple[str, ...]
    tokens: Mapping[str, str]  # bos_token, eos_token, … for the template

    def variables(self, messages: Sequence[Message], thinking: bool | None = None) -> dict[str, Any]:
        """What the template is told for the prompt that asks for the next answer. thinking: None says nothing of it."""
        return {
            **self.tokens,
            **({} if thinking is None else {"enable_thinking": thinking}),
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "add_generation_prompt": True,
        }


INSTRUCT = PromptForm(
    "{% for message in messages %}"
    "{% if message.role == 'user' %}User: {{ message.content }}\nAssistant:"
    "{% elif message.role == 'assistant' %} {{ message.content }}\n"
    "{% else %}{{ message.content }}\n{% endif %}"
    "{% endfor %}",
    ("\nUser",),
    {},
)
OPEN_ASSISTANT = PromptForm(
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|assistant|>{{ message.content }}<|endoftext|>"
    "{% else %}<|prompter|>{{ message.content }}<|endoftext|>{% endif %}"
    "{% endfor %}<|assistant|>",
    (),
    {},
)


def choose_form(tokenizer: Tokenizer, config: bytes, template: bytes) -> PromptForm | None:
    """The form of a model's prompts; None for a model that was never taught one.

    config: tokenizer_config.json; template: chat_template.jinja; either may be empty.
    """
    settings = _parse_object(config)
    text = template.decode("utf-8", "replace") or settings.get("chat_template")
    if isinstance(text, list):  # several named templates: the one called default
        named = cast("list[Mapping[str, str]]", text)
        text = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    if isinstance(text, str) and text and len(text) <= TEMPLATE_LIMIT:
        return PromptForm(text, (), _special_tokens(settings))
    if tokenizer.token_to_id("<|prompter|>") is not None:
        return OPEN_ASSISTANT
    return INSTRUCT if tokenizer.token_to_id(FALCON_TOKEN) is not None else None


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = settings.get(name)
        content = cast("Mapping[str, object]", value).get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            found[name] = content
    return found


def _parse_object(data: bytes) -> Mapping[str, Any]:
    if not data:
        return {}
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Any]", parsed) if isinstance(parsed, dict) else {}


def read_defaults(config: bytes) -> Mapping[str, float]:
    """temperature, top_k, top_p, repetition_penalty of a generation_config.json that asks for sampling."""
    settings = _parse_object(config)
    if not settings.get("do_sample"):
        return {}
    found: dict[str, float] = {}
    for name, allowed in SAMPLING_RANGES.items():
        value = settings.get(name)
        if name != "seed" and isinstance(value, int | float) and allowed.holds(value):
            found[name] = allowed.number(value)
    return found

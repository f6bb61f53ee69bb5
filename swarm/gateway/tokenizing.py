"""Text to token ids and back, for programs that bring no tokenizer of their own: as vLLM has these routes."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from swarm.gateway.exchange import Exchange
from swarm.gateway.failures import wrong
from swarm.gateway.models import Models, ServedModel
from swarm.gateway.openai.chat import ChatMessage, read_messages
from swarm.gateway.tokens import spell


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    tokens: list[int]
    model: str | None = None


class Tokenize:
    """POST /tokenize"""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        asked = await exchange.read(TokenizeRequest)
        served = await self._models.find_or_only(asked.model)
        ids = await self._models.in_thread(lambda: self._encode(served, asked))
        told: dict[str, Any] = {"count": len(ids), "max_model_len": served.card.context, "tokens": ids}
        await exchange.send_json(200, told)

    def _encode(self, served: ServedModel, asked: TokenizeRequest) -> list[int]:
        if (asked.prompt is None) == (asked.messages is None):
            raise wrong("prompt", "one of prompt and messages is to be given")
        if asked.messages is None:
            return served.encode(asked.prompt or "", is_raw=asked.add_special_tokens)
        return served.encode(served.write_prompt(read_messages(asked.messages)), is_raw=served.form is None)


class Detokenize:
    """POST /detokenize"""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        asked = await exchange.read(DetokenizeRequest)
        served = await self._models.find_or_only(asked.model)
        if any(not 0 <= one < served.card.vocabulary for one in asked.tokens):
            raise wrong("tokens", f"token ids are 0 to {served.card.vocabulary - 1}")
        text = await self._models.in_thread(lambda: served.tokenizer.decode(asked.tokens, skip_special_tokens=False))
        await exchange.send_json(200, {"prompt": text})


class TokenizerInfo:
    """GET /tokenizer_info"""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def __call__(self, exchange: Exchange) -> None:
        served = await self._models.find_or_only(None)
        ends = [spell(served.tokenizer, one) for one in served.card.end_ids]
        tokens = {} if served.form is None else dict(served.form.tokens)
        told = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": served.card.context,
            "bos_token": tokens.get("bos_token"),
            "eos_token": tokens.get("eos_token") or (ends[0] if ends else None),
            "pad_token": tokens.get("pad_token"),
            "unk_token": tokens.get("unk_token"),
            "chat_template": None if served.form is None else served.form.template,
        }
        await exchange.send_json(200, told)

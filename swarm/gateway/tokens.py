"""Single tokens as callers see them: their text, their bytes, how likely they were. Pure apart from the tokenizer."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tokenizers import Tokenizer

from swarm.messages.steps import Score

LEAST = -9999.0  # a log-probability that JSON has a number for
HALF = "\ufffd"  # what is no whole character
ONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def finite(log_probability: float) -> float:
    return max(log_probability, LEAST)


def spell(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.decode([token], skip_special_tokens=False)


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token stands for, of which a character may be the half."""
    text = spell(tokenizer, token)
    if HALF not in text:
        return text.encode()
    stored = tokenizer.id_to_token(token) or ""
    alone = ONE_BYTE.fullmatch(stored)
    if alone:
        return bytes([int(alone[1], 16)])
    letters = _byte_letters()
    return bytes(letters[letter] for letter in stored if letter in letters)


@cache
def _byte_letters() -> dict[str, int]:
    """How byte-level vocabularies write bytes: those that are printable as themselves, the others from U+0100 on.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def describe(tokenizer: Tokenizer, token: int, score: Score) -> dict[str, Any]:
    """A token, how likely it was, and the likeliest ones in its place: as OpenAI's chat tells them."""

    def tell(one: int, log_probability: float) -> dict[str, Any]:
        told = list(bytes_of(tokenizer, one))
        return {"token": spell(tokenizer, one), "logprob": finite(log_probability), "bytes": told}

    return {**tell(token, score.log_probability), "top_logprobs": [tell(*one) for one in score.likeliest]}


def likeliest_by_text(tokenizer: Tokenizer, token: int, score: Score) -> dict[str, float]:
    """The likeliest tokens and the token itself; of two that are spelled alike the likelier one."""
    found: dict[str, float] = {}
    for one, log_probability in [*score.likeliest, (token, score.log_probability)]:
        text = spell(tokenizer, one)
        found[text] = max(finite(log_probability), found.get(text, LEAST))
    return found

"""Reads tokenizer.model, in either form that Meta's models have, in the terms in which GGUF files tell a tokenizer.

Up to Llama 2 it is a SentencePiece model: a protocol buffer with pieces, scores and types. Since Llama 3 it is a list of
byte strings in base64, each with its rank, and special tokens are known by heart.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swarm.errors import WeightsError

LIMIT = 64 << 20
SPECIAL_TOKENS = 256
_NORMAL, _CONTROL = 1, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_BEFORE_HEADERS = ("<|begin_of_text|>", "<|end_of_text|>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")


def read_tokenizer_model(path: Path, *, has_tools: bool) -> dict[str, Any]:
    """tokenizer.ggml.*: tokens, types, scores or merges, ids of roles.

    has_tools: whether it is of Llama 3.1 or later, whose special tokens are others. Raises WeightsError.
    """
    if path.stat().st_size > LIMIT:
        raise WeightsError(f"{path} has {path.stat().st_size} bytes; no tokenizer is that large")
    data = path.read_bytes()
    try:
        return _read_ranks(data, has_tools) if _is_text(data) else _read_pieces(data)
    except (ValueError, IndexError, struct.error, binascii.Error) as error:
        raise WeightsError(f"{path} is no tokenizer.model: {error}; put a tokenizer.json beside it") from None


def _is_text(data: bytes) -> bool:
    first = data.partition(b"\n")[0].split(b" ")
    return len(first) == 2 and first[1].isdigit()


def _read_ranks(data: bytes, has_tools: bool) -> dict[str, Any]:
    ranks: dict[bytes, int] = {}
    for line in data.splitlines():
        token, rank = line.split(b" ")
        if int(rank) != len(ranks):
            raise ValueError(f"rank {int(rank)} where {len(ranks)} is due")
        ranks[base64.b64decode(token, validate=True)] = int(rank)
    letters = _byte_letters()
    spelled = ["".join(letters[byte] for byte in token) for token in ranks]
    special = _special_tokens(has_tools)
    ids = {token: len(ranks) + number for number, token in enumerate(special)}
    told = {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": spelled + special,
        "merges": [f"{spelled[left]} {spelled[right]}" for left, right in _find_merges(ranks)],
        "token_type": [_NORMAL] * len(ranks) + [_CONTROL] * len(special),
        "bos_token_id": ids["<|begin_of_text|>"],
        "eos_token_id": ids["<|end_of_text|>"],
        "eot_token_id": ids["<|eot_id|>"],
        **({"eom_token_id": ids["<|eom_id|>"]} if has_tools else {}),
    }
    return {f"tokenizer.ggml.{name}": value for name, value in told.items()}


def _find_merges(ranks: dict[bytes, int]) -> Iterator[tuple[int, int]]:
    """Every pair of tokens that makes a token, in the order of what they make."""
    for token in ranks:
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        yield from sorted((ranks[left], ranks[right]) for left, right in cuts if left in ranks and right in ranks)


def _special_tokens(has_tools: bool) -> list[str]:
    named = (
        [
            *_BEFORE_HEADERS,
            0,
            1,
            "<|finetune_right_pad_id|>",
            2,
            *_HEADERS,
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
        ]
        if has_tools
        else [*_BEFORE_HEADERS, 0, 1, 2, 3, *_HEADERS, 4, "<|eot_id|>"]
    )
    reserved = sum(isinstance(one, int) for one in named)
    every = [*named, *range(reserved, reserved + SPECIAL_TOKENS - len(named))]
    return [f"<|reserved_special_token_{one}|>" if isinstance(one, int) else one for one in every]


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a vocabulary of bytes: itself where it prints, else one from 256 on."""
    prints = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def _read_pieces(data: bytes) -> dict[str, Any]:
    tokens: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    for number, value in _fields(data):
        if number != 1:
            continue
        if not isinstance(value, bytes):
            raise ValueError("a piece is no message")
        piece = dict(_fields(value))
        text, score, kind = piece.get(1, b""), piece.get(2, b"\0\0\0\0"), piece.get(3, _NORMAL)
        if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
            raise ValueError("a piece is not made of a text, a score and a type")
        tokens.append(text.decode())
        scores.append(struct.unpack("<f", score)[0])
        types.append(kind)
    if not tokens:
        raise ValueError("it has no pieces")
    roles = {"bos": "<s>", "eos": "</s>", "unknown": "<unk>"}
    told = {
        "model": "llama",
        "tokens": tokens,
        "scores": scores,
        "token_type": types,
        **{f"{role}_token_id": tokens.index(token) for role, token in roles.items() if token in tokens},
    }
    return {f"tokenizer.ggml.{name}": value for name, value in told.items()}


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffer's message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case wire if wire == _VARINT:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case wire if wire == _BYTES:
                length, at = _varint(data, at)
            case wire if wire == _FIXED32:
                length = 4
            case wire if wire == _FIXED64:
                length = 8
            case wire:
                raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("it has been cut short")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than 64 bits")

"""A GGUF model's tokenizer and settings as the documents that a checkpoint would have.

The file tells tokens, merges and the name of the rule by which text is cut before it is merged; the rules are these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from swarm.errors import WeightsError
from swarm.sepweight.checkpoint import read_documents

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
_LLAMA3_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2_CUT = _LLAMA3_CUT.replace(r"\p{N}{1,3}", r"\p{N}")
_TURN_ENDS = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>", "</s>"}
)
_ROLES = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id"}


def make_documents(path: Path, metadata: Mapping[str, Any], directory: Path | None) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and generation_config.json, and the chat template in the second.

    directory: has documents that are taken as they are. Raises WeightsError that says how to give one.
    """
    if directory is not None:
        documents = read_documents(directory)
        if "tokenizer.json" not in documents:
            raise WeightsError(f"{directory} has no tokenizer.json")
        return documents
    if "tokenizer.ggml.tokens" not in metadata:
        return {}
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    settings: dict[str, Any] = {
        role: tokens[metadata[f"tokenizer.ggml.{name}"]]
        for role, name in _ROLES.items()
        if isinstance(metadata.get(f"tokenizer.ggml.{name}"), int) and metadata[f"tokenizer.ggml.{name}"] < len(tokens)
    }
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    ends = _find_ends(metadata, tokens, template if isinstance(template, str) else "")
    return {
        **({"generation_config.json": json.dumps({"eos_token_id": ends}).encode()} if ends else {}),
        "tokenizer.json": _make_tokenizer(path, metadata, tokens).to_str().encode(),
        "tokenizer_config.json": json.dumps(settings, indent=1).encode(),
    }


def _find_ends(metadata: Mapping[str, Any], tokens: Sequence[str], template: str) -> list[int]:
    """Ids that end an answer: those that the file tells, and control tokens that the template ends turns with."""
    told = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    types = metadata.get("tokenizer.ggml.token_type", [])
    told += [
        number
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == _CONTROL and token in _TURN_ENDS and token in template
    ]
    return list(dict.fromkeys(one for one in told if isinstance(one, int)))


def _make_tokenizer(path: Path, metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    kind, cut = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise _unknown(path, f'a tokenizer of the model "{kind}"')
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [_split_merge(path, merge, vocabulary) for merge in metadata.get("tokenizer.ggml.merges", [])]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut in ("llama-bpe", "tekken")))
    match cut:
        case "smollm":
            cutting = [pre_tokenizers.Digits(individual_digits=True), _by_bytes()]
        case "gpt-2":
            cutting = [_by_bytes()]
        case "llama-bpe" | "qwen2":
            if cut == "qwen2":
                tokenizer.normalizer = normalizers.NFC()
            told = Regex(_QWEN2_CUT if cut == "qwen2" else _LLAMA3_CUT)
            cutting = [pre_tokenizers.Split(told, "isolated"), _by_bytes(use_regex=False)]
        case "falcon":
            cutting = [
                pre_tokenizers.Punctuation("contiguous"),
                _by_bytes(),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        case _:
            raise _unknown(path, f'text that is cut by the rule "{cut}"')
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cutting)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = _begin(metadata, tokens)
    types: Sequence[int] = metadata.get("tokenizer.ggml.token_type", [])
    for token, number in zip(tokens, types, strict=False):
        if number in (_CONTROL, _USER_DEFINED):
            tokenizer.add_tokens([AddedToken(token, special=number == _CONTROL, normalized=False)])
    return tokenizer


def _by_bytes(*, use_regex: bool = True) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _begin(metadata: Mapping[str, Any], tokens: Sequence[str]) -> processors.PostProcessor:
    """Puts the first token before a text where the file asks for that."""
    first = metadata.get("tokenizer.ggml.bos_token_id")
    if not metadata.get("tokenizer.ggml.add_bos_token") or not isinstance(first, int):
        return processors.ByteLevel(trim_offsets=False)
    token = tokens[first]
    return processors.TemplateProcessing(f"{token} $A", f"{token} $A $B", [(token, first)])


def _split_merge(path: Path, merge: str, vocabulary: Mapping[str, int]) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
        raise WeightsError(f'{path}: tokenizer.ggml.merges has "{merge}", which is not made of its tokens')
    return left, right


def _unknown(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path} asks for {what}, which is not implemented; pass --tokenizer DIR, a directory with the "
        "tokenizer.json and tokenizer_config.json of the checkpoint that it was made from"
    )

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
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_CUT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3_CUT),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2_CUT),
    "tekken": _TEKKEN_CUT,
}
# Of these a piece of text that is a token is that token, whatever the merges make of it; and texts begin with a token.
_WHOLE_FIRST = frozenset(name for name, cut in _CUTS.items() if cut is not _QWEN2_CUT)
_SPACE = "\u2581"
_TURN_ENDS = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>", "</s>"}
)
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown"}


def make_documents(path: Path, metadata: Mapping[str, Any], directory: Path | None) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and generation_config.json, and the chat template in the second.

    directory: has documents that are taken as they are. Raises WeightsError that says how to give one.
    """
    if directory is not None:
        documents = read_documents(directory)
        if "tokenizer.json" not in documents:
            raise WeightsError(f"{directory} has no tokenizer.json")
        return documents
    if not metadata.get("tokenizer.ggml.tokens"):
        return {}
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    roles = {role: _token_id(path, metadata, name) for role, name in _ROLES.items()}
    settings: dict[str, Any] = {role: tokens[number] for role, number in roles.items() if number is not None}
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    ends = _find_ends(path, metadata, tokens, template if isinstance(template, str) else "")
    return {
        **({"generation_config.json": json.dumps({"eos_token_id": ends}).encode()} if ends else {}),
        "tokenizer.json": _make_tokenizer(path, metadata, tokens).to_str().encode(),
        "tokenizer_config.json": json.dumps(settings, indent=1).encode(),
    }


def _token_id(path: Path, metadata: Mapping[str, Any], role: str) -> int | None:
    """Which token plays a role; None if the file does not say."""
    key = f"tokenizer.ggml.{role}_token_id"
    told, count = metadata.get(key), len(metadata["tokenizer.ggml.tokens"])
    if told is None:
        return None
    if not isinstance(told, int) or not 0 <= told < count:
        raise WeightsError(f"{path}: {key} is {told}, which is no id of {count} tokens")
    return told


def _find_ends(path: Path, metadata: Mapping[str, Any], tokens: Sequence[str], template: str) -> list[int]:
    """Ids that end an answer: those that the file tells, and control tokens that the template ends turns with."""
    told = [_token_id(path, metadata, role) for role in ("eos", "eot", "eom")]
    types = metadata.get("tokenizer.ggml.token_type", [])
    told += [
        number
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == _CONTROL and token in _TURN_ENDS and token in template
    ]
    return list(dict.fromkeys(one for one in told if one is not None))


def _make_tokenizer(path: Path, metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    match metadata.get("tokenizer.ggml.model"):
        case "gpt2":
            tokenizer = _make_by_merges(path, metadata, tokens)
        case "llama":
            # Gemma's tokens of several spaces are spelled with such.
            tokens = [token if token.strip(" ") else token.replace(" ", _SPACE) for token in tokens]
            tokenizer = _make_by_scores(path, metadata, tokens)
        case kind:
            raise _unknown(path, f'a tokenizer of the model "{kind}"')
    tokenizer.post_processor = _begin(path, metadata, tokens)
    types: Sequence[int] = metadata.get("tokenizer.ggml.token_type", [])
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=False)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    return tokenizer


def _make_by_merges(path: Path, metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    """Bytes, merged in the order of a list."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [_split_merge(path, merge, vocabulary) for merge in metadata.get("tokenizer.ggml.merges", [])]
    cut = metadata.get("tokenizer.ggml.pre", "default")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut in _WHOLE_FIRST))
    match cut:
        case "smollm":
            cutting = [pre_tokenizers.Digits(individual_digits=True), _by_bytes()]
        case "gpt-2":
            cutting = [_by_bytes()]
        case "falcon":
            cutting = [
                pre_tokenizers.Punctuation("contiguous"),
                _by_bytes(),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        case _ if cut in _CUTS:
            cutting = [pre_tokenizers.Split(Regex(_CUTS[cut]), "isolated"), _by_bytes(use_regex=False)]
        case _:
            raise _unknown(path, f'text that is cut by the rule "{cut}"')
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cutting)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _make_by_scores(path: Path, metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    """SentencePiece's: characters, of which the pair is merged whose token has the highest score; bytes where none fits."""
    scores: Sequence[float] = metadata.get("tokenizer.ggml.scores", [])
    if len(scores) != len(tokens):
        raise WeightsError(f"{path}: tokenizer.ggml.scores has {len(scores)} numbers for {len(tokens)} tokens")
    unknown = tokens[_token_id(path, metadata, "unknown") or 0]
    if str(metadata.get("general.architecture")).startswith("gemma"):
        scores = [-float(number) for number in range(len(tokens))]  # what comes first is merged first
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = order_merges(vocabulary, scores)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    has_space = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(_SPACE)] if has_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    first = [decoders.Strip(" ", 1, 0)] if has_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *first]
    )
    return tokenizer


def order_merges(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token: first what has the highest score, then what consists of longer ones."""
    pairs: list[tuple[float, int, int, int, int, int, str, str]] = []
    for token, number in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                order = (-scores[number], -len(left), -len(right), number, vocabulary[left], vocabulary[right])
                pairs.append((*order, left, right))
    return [pair[-2:] for pair in sorted(pairs)]


def _by_bytes(*, use_regex: bool = True) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _begin(path: Path, metadata: Mapping[str, Any], tokens: Sequence[str]) -> processors.PostProcessor:
    """Puts the first token before a text where the file asks for that, or says nothing and its kind is used to it."""
    first = _token_id(path, metadata, "bos")
    by_scores = metadata.get("tokenizer.ggml.model") == "llama"
    usual = by_scores or metadata.get("tokenizer.ggml.pre") in _WHOLE_FIRST
    if not metadata.get("tokenizer.ggml.add_bos_token", usual) or first is None:
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

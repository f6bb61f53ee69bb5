"""Tokenizers rebuilt from GGUF files give the ids of those that the library of the checkpoints makes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, Qwen2Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from swarm.checkpoints import open_checkpoint
from swarm.errors import WeightsError
from tests.llama.members import make_model
from tests.sepweight.ggufs import LLAMA_NAMES, llama_fields, tensors_of, write_gguf

WORDS = [
    "def f(x):\n\treturn x**2",
    "  two  spaces",
    "Ünïcödé",
    "日本語",
    "🙂👍🏽",
    "<|end|>",
    "it's",
    "we'LL",
    "3.14159",
    "2026",
]
WORDS += [
    "१२३",
    "\r\n\n",
    "العربية",
    "CamelCaseWord",
    "/usr/lib//x",
    "#include <stdio.h>",
    "²³",
    "Ⅷ",
    "e\u0301",
    "\u3000",
    "a\tb",
]
CONTROL = {"<|begin|>", "<|end|>"}


def make_texts() -> list[str]:
    chosen = random.Random(1)
    return ["", *(chosen.choice([" ", "", "\n"]).join(chosen.choices(WORDS, k=6)) for _ in range(199))]


def convert_tokenizer(path: Path) -> tuple[Tokenizer, dict[str, bytes]]:
    with open_checkpoint(path) as opened:
        documents = dict(opened.source.documents())
    return Tokenizer.from_buffer(documents["tokenizer.json"]), documents


def write(path: Path, architecture: str, tokens: Sequence[str], **more: Any) -> None:
    model = make_model("qwen2" if architecture == "qwen2" else "mistral, no window", num_hidden_layers=1)
    fields = {name: value for name, value in llama_fields(model).items() if not name.startswith("tokenizer")}
    told = {f"tokenizer.ggml.{name}": value for name, value in more.items() if name not in ("pre", "merges", "whole")}
    write_gguf(
        path,
        architecture,
        {**fields, **told, **more.get("whole", {})},
        tensors_of(model, LLAMA_NAMES),
        tokens=tokens,
        merges=more.get("merges", ()),
        pre=more.get("pre", "default"),
    )


# As the tokenizer.json that is published with tiiuae/falcon-7b, 40b and rw says it.
FALCON_CUTS = [
    {"type": "Punctuation", "behavior": "Contiguous"},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    {"type": "Digits", "individual_digits": False},
    {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
]


def theirs_of(pre: str) -> Tokenizer:
    """An untrained tokenizer as the library, or who published it, cuts text for the rule."""
    if pre == "falcon":
        told = json.loads(Tokenizer(models.BPE()).to_str())
        return Tokenizer.from_str(
            json.dumps({**told, "pre_tokenizer": {"type": "Sequence", "pretokenizers": FALCON_CUTS}})
        )
    made = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    if pre in ("qwen2", "gpt-2"):
        like = (Qwen2Tokenizer if pre == "qwen2" else GPT2Tokenizer)().backend_tokenizer
        if like.normalizer is not None:
            made.normalizer = like.normalizer
        made.pre_tokenizer = like.pre_tokenizer
        return made
    cut = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[pre]), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return made


@pytest.mark.parametrize("pre", ["qwen2", "gpt-2", "llama-bpe", "tekken", "falcon"])
def test_bytes_are_merged_as_the_library_merges_them(pre: str, tmp_path: Path) -> None:
    theirs = theirs_of(pre)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=sorted(CONTROL))
    theirs.train_from_iterator(make_texts(), trainer)
    state = json.loads(theirs.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    merges = [" ".join(merge) for merge in state["merges"]]
    assert len(merges) > 100
    types = [3 if token in CONTROL else 1 for token in tokens]
    told = {"pre": pre, "merges": merges, "token_type": types, "bos_token_id": tokens.index("<|begin|>")}
    write(tmp_path / "model.gguf", "qwen2", tokens, eos_token_id=tokens.index("<|end|>"), **told)
    ours, documents = convert_tokenizer(tmp_path / "model.gguf")
    for text in make_texts():
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids, (
            text
        )
    begins = pre in ("llama-bpe", "tekken")
    assert (ours.encode("a").ids[0] == tokens.index("<|begin|>")) == begins
    assert json.loads(documents["generation_config.json"]) == {"eos_token_id": [tokens.index("<|end|>")]}
    assert json.loads(documents["tokenizer_config.json"])["bos_token"] == "<|begin|>"


def test_scores_merge_as_sentencepiece_does(tmp_path: Path) -> None:
    """The oracle reads the same file; for other architectures than phi3 it puts no space before text that begins with one.

    SentencePiece itself and the tokenizer.json of Llama 2 do, whatever the text.
    """
    chosen = random.Random(2)
    text = " ".join(WORDS).replace(" ", "\u2581")
    pieces = sorted(set(text) | {text[at : at + n] for n in (2, 3, 4) for at in range(len(text) - n)})
    chosen.shuffle(pieces)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    scores = [0.0] * 259 + [-float(number) for number in range(len(pieces))]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    told = {"scores": scores, "token_type": types, "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    path = tmp_path / "model.gguf"
    write(path, "phi3", tokens, model="llama", **told)
    ours, _ = convert_tokenizer(path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for one in make_texts():
        ids = ours.encode(one, add_special_tokens=False).ids
        assert ids == theirs(one, add_special_tokens=False)["input_ids"], one
        assert ours.decode(ids, skip_special_tokens=False) == one
    assert ours.encode("a").ids[0] == 1


def test_gemmas_tokens_merge_in_their_order_whatever_their_scores(tmp_path: Path) -> None:
    chosen = random.Random(3)
    text = " ".join(WORDS).replace(" ", "\u2581")
    pieces = sorted(set(text) | {text[at : at + n] for n in (2, 3, 4) for at in range(len(text) - n)})
    pieces = [piece for piece in pieces if piece.strip("\u2581") or len(piece) == 1]
    chosen.shuffle(pieces)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "  ", "   ", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    scores = [0.0] * 262 + [-float(chosen.randrange(len(pieces))) for _ in pieces]
    types = [3, 3, 3, 2, 4, 4, *[6] * 256, *[1] * len(pieces)]
    told = {"scores": scores, "token_type": types, "bos_token_id": 2, "eos_token_id": 1, "unknown_token_id": 3}
    path = tmp_path / "model.gguf"
    write(path, "gemma2", tokens, model="llama", **told, add_space_prefix=False)
    ours, _ = convert_tokenizer(path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for one in [*make_texts(), "a  b   c    d"]:
        ids = ours.encode(one, add_special_tokens=False).ids
        assert ids == theirs(one, add_special_tokens=False)["input_ids"], one
        assert ours.decode(ids, skip_special_tokens=False) == one
    assert ours.encode("a").ids[0] == 2


def test_a_template_ends_turns_with_its_own_token(tmp_path: Path) -> None:
    tokens = ["a", "<|endoftext|>", "<|im_end|>", "<|eot_id|>"]
    path = tmp_path / "model.gguf"
    told = {"pre": "gpt-2", "token_type": [1, 3, 3, 3], "eos_token_id": 1}
    template = "{{ messages[0].content }}<|im_end|>"
    write(path, "qwen2", tokens, **told, whole={"tokenizer.chat_template": template})
    with open_checkpoint(path) as opened:
        documents = opened.source.documents()
    assert json.loads(documents["generation_config.json"]) == {"eos_token_id": [1, 2]}
    assert json.loads(documents["tokenizer_config.json"])["chat_template"] == template


@pytest.mark.parametrize("told", [{"bos_token_id": 4}, {"eos_token_id": 4000}, {"unknown_token_id": 1 << 31}])
def test_an_id_that_no_token_has_is_an_error(told: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", "qwen2", ["a", "b", "ab", "c"], pre="gpt-2", **told)
    with pytest.raises(WeightsError, match=r"token_id is \d+, which is no id of 4 tokens"):
        convert_tokenizer(tmp_path / "model.gguf")

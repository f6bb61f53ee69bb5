"""Random tiny Falcon checkpoints of every variant, made with transformers, which is also the oracle."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import FalconConfig, FalconForCausalLM, PreTrainedModel

from swarm.falcon.family import FALCON
from swarm.sepweight.convert import convert
from swarm.sepweight.family import Family

COMMON = {
    "vocab_size": 97,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 96,
}

VARIANTS = {
    "7b": {"multi_query": True, "parallel_attn": True},
    "40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "11b": {
        "new_decoder_architecture": True,
        "num_kv_heads": 1,
        "num_ln_in_parallel_attn": 1,
        "tie_word_embeddings": False,
    },
    "rw": {"multi_query": False, "alibi": True, "parallel_attn": False, "bias": True},
    "rw-odd-heads": {
        "multi_query": False,
        "alibi": True,
        "parallel_attn": True,
        "num_attention_heads": 6,
        "hidden_size": 96,
    },
    "sequential-rope": {"multi_query": True, "parallel_attn": False, "ffn_hidden_size": 96, "bias": True},
}


def make_model(variant: str, seed: int = 1, **changes: int) -> FalconForCausalLM:
    """A random float32 Falcon whose weights are large enough that greedy answers do not repeat one token.

    Its attention is the default `sdpa`: with `eager`, transformers 5.23 adds the ALiBi bias twice.
    """
    torch.manual_seed(seed)
    config = FalconConfig(**{**COMMON, **VARIANTS[variant], **changes})
    model = FalconForCausalLM(config).eval()
    spread(model, ".h.", 0.05)
    return model


def spread(model: PreTrainedModel, layers: str, vectors: float) -> None:
    """Make a fresh model's weights as large and its norms and biases as random as those that have been trained.

    layers: what is in the names of a layer's parameters. vectors: how far norms and biases go.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = vectors if parameter.ndim == 1 else 0.25 if layers in name else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)


def save_checkpoint(variant: str, directory: Path, seed: int = 1, **changes: int) -> FalconForCausalLM:
    """Write the checkpoint in Hugging Face's form and return the model."""
    model = make_model(variant, seed, **changes)
    model.save_pretrained(directory)
    return model


def save_sepweight(
    variant: str, directory: Path, seed: int = 1, dtype: str | None = None, **changes: int
) -> FalconForCausalLM:
    """Write the model as a sepweight directory (by way of a checkpoint) and return it.

    dtype: what the directory holds. changes: of the variant's config.
    """
    model = make_model(variant, seed, **changes)
    convert_model(model, directory, FALCON, dtype)
    return model


def convert_model(model: PreTrainedModel, directory: Path, family: Family, dtype: str | None) -> None:
    """Write a model as a sepweight directory, by way of a checkpoint beside it."""
    checkpoint = directory.parent / f"{directory.name}-checkpoint"
    model.save_pretrained(checkpoint)
    convert(checkpoint, directory, family, dtype=dtype)


def save_tokenizer(directory: Path) -> Tokenizer:
    """One token a byte, as far as the tiny vocabulary goes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: COMMON["vocab_size"]]
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer

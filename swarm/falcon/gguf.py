"""How GGUF files tell Falcons: their config, and where each tensor lies. Pure data; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.decoder.gguf import count_tokens, open_metadata, refuse_unread
from swarm.sepweight.family import GgufFacts, GgufPlace

ARCHITECTURE = "falcon"
_NAMES: Mapping[str, str] = {
    "word_embeddings": "token_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm",
    "ln_attn": "attn_norm_2",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
_HARMLESS = frozenset({"tensor_data_layout", "attention.key_length"})


def read_gguf(file: GgufFacts) -> dict[str, Any]:
    """The config.json that the model would have: of the 7B's layout, or of the 40B's with one norm or two."""
    told = open_metadata(file)
    has_two_norms = "blk.0.attn_norm_2.weight" in file.tensors
    kv_heads = told.number("attention.head_count_kv", default=1)
    is_new = has_two_norms or kv_heads > 1
    config: dict[str, Any] = {
        "model_type": "falcon",
        "num_hidden_layers": told.number("block_count"),
        "hidden_size": told.number("embedding_length"),
        "ffn_hidden_size": told.number("feed_forward_length"),
        "num_attention_heads": told.number("attention.head_count"),
        "num_kv_heads": kv_heads,
        "layer_norm_epsilon": told.real("attention.layer_norm_epsilon"),
        "rope_theta": told.real("rope.freq_base", default=10000.0),
        "max_position_embeddings": told.number("context_length"),
        "vocab_size": count_tokens(file),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "new_decoder_architecture": is_new,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "alibi": False,
    }
    if is_new:
        config["num_ln_in_parallel_attn"] = 2 if has_two_norms else 1
    refuse_unread(told, file, _HARMLESS)
    return config


def place_gguf(config: Mapping[str, Any], key: str, tensor: str) -> GgufPlace:
    """Where a tensor lies. config: as read_gguf gave it."""
    stem, _, kind = tensor.rpartition(".")
    name = f"{_NAMES[stem]}.{kind}"
    if not key.startswith("mid."):
        return GgufPlace(name)
    name = f"blk.{int(key.removeprefix('mid.'))}.{name}"
    if stem != "self_attention.query_key_value" or config["num_kv_heads"] == 1:
        return GgufPlace(name)
    return GgufPlace(name, regroup(config["num_attention_heads"], config["num_kv_heads"], config["hidden_size"]))


def regroup(heads: int, kv_heads: int, hidden: int) -> list[int]:
    """Of the rows of all queries, all keys, all values: the order in which each kv head's are together."""
    head_dim, group = hidden // heads, heads // kv_heads
    order: list[int] = []
    for kv in range(kv_heads):
        slots = [*range(kv * group, (kv + 1) * group), heads + kv, heads + kv_heads + kv]
        order += [slot * head_dim + dim for slot in slots for dim in range(head_dim)]
    return order

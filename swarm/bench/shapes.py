"""Shapes of models that are measured with random weights. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Falcon with grouped queries (the 40B layout)."""

    layers: int = 12
    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 2
    vocabulary: int = 65024
    context: int = 2048
    dtype: str = "bfloat16"

    @property
    def config(self) -> dict[str, Any]:
        """As a checkpoint's config.json would say it."""
        return {
            "model_type": "falcon",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "new_decoder_architecture": True,
            "bias": False,
            "eos_token_id": 11,
        }


# By name, as a checkpoint's config.json has them: published ones, and the one that decoding is measured with.
CONFIGS: dict[str, dict[str, Any]] = {
    "falcon-bench": Shape().config,
    "falcon-7b": {
        "model_type": "falcon",
        "num_hidden_layers": 32,
        "hidden_size": 4544,
        "num_attention_heads": 71,
        "vocab_size": 65024,
        "max_position_embeddings": 2048,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "eos_token_id": 11,
    },
    "llama-13b": {
        "model_type": "llama",
        "num_hidden_layers": 40,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
    },
}

"""Random tiny checkpoints of the LLaMA family's members, made with transformers, which is also the oracle.

Weights are spread, norms and biases random, heads more than kv heads, head_dim not hidden / heads where it may be so,
windows shorter than the prompts: what is computed wrongly must show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from swarm.llama.family import LLAMA
from tests.checkpoints import convert_model, spread

COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 96,
    "pad_token_id": 95,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.25, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 1024,
}
# name → the model_type, and what its config says besides
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama, wide heads": ("llama", {"head_dim": 16, "rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}}),
    "llama, one kv head": ("llama", {"num_key_value_heads": 1, "rope_parameters": YARN}),
    "mistral": ("mistral", {"sliding_window": 9, "head_dim": 16}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, yarn, biases": ("qwen3", {"head_dim": 16, "rope_parameters": YARN, "attention_bias": True}),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", {"sliding_window": 9, "num_key_value_heads": 6}),
    "phi3, longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 1024, "max_position_embeddings": 4096},
    ),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 4.0,
            "attention_bias": True,
        },
    ),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 9,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 8.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "tie_word_embeddings": False,
            "query_pre_attn_scalar": 24,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3, windows": (
        "smollm3",
        {"no_rope_layers": [1, 0, 0, 1], "use_sliding_window": True, "sliding_window": 9, "mlp_bias": True},
    ),
}


def make_model(name: str, seed: int = 1, **changes: Any) -> PreTrainedModel:
    """A random float32 member whose weights are large enough that greedy answers do not repeat one token."""
    torch.manual_seed(seed)
    model_type, told = MEMBERS[name]
    config = AutoConfig.for_model(model_type, **{**COMMON, **told, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    spread(model, ".layers.", 0.2)
    return model


def save_checkpoint(name: str, directory: Path, seed: int = 1, **changes: Any) -> PreTrainedModel:
    """Write a member in Hugging Face's form and return it."""
    model = make_model(name, seed, **changes)
    model.save_pretrained(directory)
    return model


def save_sepweight(
    name: str, directory: Path, seed: int = 1, dtype: str | None = None, **changes: Any
) -> PreTrainedModel:
    """Write a member as a sepweight directory, by way of a checkpoint, and return it."""
    model = make_model(name, seed, **changes)
    convert_model(model, directory, LLAMA, dtype)
    return model

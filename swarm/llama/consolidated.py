"""How Meta's own files tell LLaMA models: params.json, and tensors in consolidated.NN.pth, each cut into as many shards.

Pure data; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swarm.decoder.config import Config
from swarm.errors import WeightsError
from swarm.llama.gguf import deinterleave
from swarm.sepweight.family import ShardedPlace

# name → its own, and the dimension along which shards hold it; None: each holds all of it
LAYER_NAMES: Mapping[str, tuple[str, int | None]] = {
    "input_layernorm": ("attention_norm", None),
    "self_attn.q_proj": ("attention.wq", 0),
    "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0),
    "self_attn.o_proj": ("attention.wo", 1),
    "post_attention_layernorm": ("ffn_norm", None),
    "mlp.gate_proj": ("feed_forward.w1", 0),
    "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
}
EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
# Of how the weights were trained and the original program runs; the shapes of tensors tell the rest.
HARMLESS = frozenset({"vocab_size", "multiple_of", "ffn_dim_multiplier", "max_batch_size", "max_seq_len"})
SMALL_HIDDEN = (
    3072  # up to which models of Llama 3.2 go, which slow their rotation by more; params.json says nothing of it
)


def read_params(raw: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], shards: int) -> dict[str, Any]:
    """The config.json that the model would have. shapes: of one shard's tensors. Raises WeightsError."""
    told = Config(raw, "params.json")
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": told.number("dim"),
        "num_hidden_layers": told.number("n_layers"),
        "num_attention_heads": told.number("n_heads"),
        "num_key_value_heads": told.number("n_kv_heads", default=told.number("n_heads")),
        "rms_norm_eps": told.real("norm_eps"),
        "rope_theta": told.real("rope_theta", default=10000.0),
        "vocab_size": shards * _rows(shapes, HEAD),
        "intermediate_size": shards * _rows(shapes, "layers.0.feed_forward.w1.weight"),
    }
    is_scaled = told.flag("use_scaled_rope")
    factor = told.real("rope_scaling_factor", default=32.0 if config["hidden_size"] <= SMALL_HIDDEN else 8.0)
    if is_scaled:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    config["max_position_embeddings"] = 131_072 if is_scaled else _context(config)
    told.refuse_unread(HARMLESS)
    return config


def _rows(shapes: Mapping[str, Sequence[int]], name: str) -> int:
    if name not in shapes:
        raise WeightsError(f"consolidated.00.pth has no tensor {name}; it is no LLaMA model in Meta's layout")
    return shapes[name][0]


def _context(config: Mapping[str, Any]) -> int:
    """Of each generation, which params.json does not tell: Llama 3, Code Llama, Llama 1 and 2."""
    match config["rope_theta"], config["rms_norm_eps"]:
        case 500_000.0, _:
            return 8192
        case 1_000_000.0, _:
            return 16_384
        case _, 1e-6:
            return 2048
        case _:
            return 4096


def place_tensor(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], key: str, tensor: str) -> ShardedPlace:
    """Where a tensor lies. config: as read_params gave it."""
    stem = tensor.removesuffix(".weight")
    if key == "begin":  # up to Llama 2 of each token a part of its numbers, since then some of the tokens
        return ShardedPlace(EMBEDDING, 1 if shapes[EMBEDDING][0] == config["vocab_size"] else 0)
    if key == "end":
        return ShardedPlace(HEAD, 0) if stem == "lm_head" else ShardedPlace("norm.weight", None)
    name, dimension = LAYER_NAMES[stem]
    rows = deinterleave(config, stem, config["hidden_size"] // config["num_attention_heads"])
    return ShardedPlace(f"layers.{int(key.removeprefix('mid.'))}.{name}.weight", dimension, rows)

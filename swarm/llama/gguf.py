"""How GGUF files tell models of the LLaMA family: their config, and where each tensor lies.

Pure data; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.decoder.config import Config
from swarm.decoder.gguf import count_tokens, open_metadata, refuse_unread
from swarm.errors import WeightsError
from swarm.llama import gemma_gguf
from swarm.sepweight.family import GgufFacts, GgufPlace

# Each but Gemma's is called as its model_type is; Mistral's models come as llama.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "phi3", "granite", "smollm3", *gemma_gguf.MODEL_TYPES)
# Their files keep the pairs that rotate side by side in queries and keys; checkpoints keep them half a head apart.
INTERLEAVED = frozenset({"llama", "granite", "smollm3"})
LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
END_NAMES: Mapping[str, str] = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def read_gguf(file: GgufFacts) -> dict[str, Any]:
    """The config.json that the model would have. Raises WeightsError naming the key that is missing or not known."""
    architecture = file.architecture
    told = open_metadata(file)
    config: dict[str, Any] = {
        "model_type": architecture,
        "vocab_size": count_tokens(file),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_output.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in file.tensors,
        **_read_sizes(told, is_partial=architecture == "phi3"),
    }
    if architecture in gemma_gguf.MODEL_TYPES:
        config |= gemma_gguf.read_more(told, architecture, config)
    if architecture in ("llama", "phi3"):
        config |= _read_window(told, architecture)
    if architecture == "granite":
        config |= _read_multipliers(told, config["head_dim"])
    scaling = _read_scaling(told, file, config["max_position_embeddings"])
    if scaling:
        config["rope_scaling"] = scaling
    refuse_unread(told, file)
    return config


def _read_sizes(told: Config, *, is_partial: bool) -> dict[str, Any]:
    """is_partial: whether heads may rotate some of their dims alone."""
    heads, hidden = told.number("attention.head_count"), told.number("embedding_length")
    head_dim = told.number("attention.key_length", default=max(1, hidden // heads))
    values = told.number("attention.value_length", default=head_dim)
    rotated = told.number("rope.dimension_count", default=head_dim)
    if values != head_dim:
        raise WeightsError(f"attention.value_length is {values}, attention.key_length {head_dim}: not implemented")
    if rotated != head_dim and not is_partial:
        raise WeightsError(f"rope.dimension_count is {rotated} for heads of {head_dim}: not implemented")
    return {
        "num_hidden_layers": told.number("block_count"),
        "hidden_size": hidden,
        "intermediate_size": told.number("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": told.number("attention.head_count_kv", default=heads),
        "head_dim": head_dim,
        "rms_norm_eps": told.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": told.real("rope.freq_base", default=10000.0),
        "max_position_embeddings": told.number("context_length"),
        **({} if rotated == head_dim else {"partial_rotary_factor": rotated / head_dim}),
    }


def _read_multipliers(told: Config, head_dim: int) -> dict[str, Any]:
    return {
        "embedding_multiplier": told.real("embedding_scale", default=1.0),
        "residual_multiplier": told.real("residual_scale", default=1.0),
        "attention_multiplier": told.real("attention.scale", default=head_dim**-0.5),
        "logits_scaling": told.real("logit_scale", default=1.0),
    }


def _read_window(told: Config, architecture: str) -> dict[str, Any]:
    window = told.get("attention.sliding_window")
    if not window:
        return {}
    if architecture == "llama":
        raise WeightsError("llama: attention.sliding_window is not implemented; convert the checkpoint instead")
    return {"sliding_window": window}


def _read_scaling(told: Config, file: GgufFacts, context: int) -> dict[str, Any] | None:
    """rope_scaling, or None."""
    kind = told.text("rope.scaling.type", default="none")
    original = told.number("rope.scaling.original_context_length", default=context)
    scale = told.get("rope.scaling.attn_factor")
    stretch = file.vector("rope_freqs.weight")
    if stretch is not None:  # llama3's scaling, worked out
        return {"rope_type": "longrope", "short_factor": list(stretch), "attention_factor": 1.0, "factor": 1.0}
    short = file.vector("rope_factors_short.weight")
    if short is not None:
        factors = {"short_factor": list(short), "original_max_position_embeddings": original}
        return {"rope_type": "longrope", **factors, **({} if scale is None else {"attention_factor": scale})}
    if scale is not None and scale != 1.0:
        raise WeightsError(f"rope.scaling.attn_factor is {scale}: not implemented but for longrope")
    match kind:
        case "none":
            return None
        case "linear":
            return {"rope_type": "linear", "factor": told.real("rope.scaling.factor", above=0)}
        case "yarn":
            return {
                "rope_type": "yarn",
                "factor": told.real("rope.scaling.factor", above=0),
                "original_max_position_embeddings": original,
                "beta_fast": told.real("rope.scaling.yarn_beta_fast", default=32.0),
                "beta_slow": told.real("rope.scaling.yarn_beta_slow", default=1.0),
            }
        case _:
            raise WeightsError(f'rope.scaling.type "{kind}" is not implemented; known: none, linear, yarn, longrope')


def place_gguf(config: Mapping[str, Any], key: str, tensor: str) -> GgufPlace:
    """Where a tensor lies. config: as read_gguf gave it."""
    stem, _, kind = tensor.rpartition(".")
    prefix = f"blk.{int(key.removeprefix('mid.'))}." if key.startswith("mid.") else ""
    known = LAYER_NAMES.get(stem, stem) if prefix else END_NAMES[stem]
    if config["model_type"] in gemma_gguf.MODEL_TYPES.values() and stem.endswith("norm"):
        return gemma_gguf.place_norm(config, prefix, stem, known)
    name = f"{prefix}{known}.{kind}"
    return GgufPlace(
        name, deinterleave(config, stem, config["head_dim"]) if config["model_type"] in INTERLEAVED else None
    )


def deinterleave(config: Mapping[str, Any], stem: str, head_dim: int) -> list[int] | None:
    """Of queries' or keys' rows whose rotated pairs lie side by side, the order in which they lie half a head apart; None
    for other tensors."""
    counts = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
    if stem not in counts:
        return None
    heads, half = range(config[counts[stem]]), range(head_dim // 2)
    return [head * head_dim + 2 * pair + side for head in heads for side in (0, 1) for pair in half]

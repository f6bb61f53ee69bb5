"""What tells the members of the LLaMA family apart: a row a model_type. A config leaves out what is its type's default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Defaults of keys that configs leave out, and what a type computes otherwise than the others.

    kv_heads: None: as many as heads. head_dim: None: hidden / heads. attention_bias: of query, key, value and out where the
    key says so; or never; or always, but not of out. mlp_bias: whether the key is read. windows: never; as sliding_window
    says, for all layers; or only where use_sliding_window asks for them: for the layers from max_window_layers on, or for
    those without rotation. window: where the key is absent. head_norms: queries and keys have norms of their own, a head at
    a time. is_fused: query, key and value are one tensor, and gate and up. partial: only some dims of a head are rotated.
    has_multipliers: of embedding, branches, scores and logits. skips_rope: every so many layers rotate nothing.
    """

    kv_heads: int | None = None
    head_dim: int | None = None
    epsilon: float = 1e-6
    theta: float = 10000.0
    tied: bool = False
    attention_bias: Literal["as told", "never", "not of out"] = "never"
    mlp_bias: bool = False
    windows: Literal["never", "all", "last", "without rope"] = "never"
    window: int | None = None
    head_norms: bool = False
    is_fused: bool = False
    is_partial: bool = False
    has_multipliers: bool = False
    skips_rope: bool = False


TRAITS: Mapping[str, Traits] = {
    "llama": Traits(attention_bias="as told", mlp_bias=True),
    "mistral": Traits(kv_heads=8, windows="all", window=4096),
    "qwen2": Traits(kv_heads=32, attention_bias="not of out", windows="last", window=4096),
    "qwen3": Traits(kv_heads=32, head_dim=128, attention_bias="as told", windows="last", window=4096, head_norms=True),
    "phi3": Traits(epsilon=1e-5, windows="all", is_fused=True, is_partial=True),
    "granite": Traits(attention_bias="as told", mlp_bias=True, has_multipliers=True),
    "smollm3": Traits(
        kv_heads=4,
        theta=2e6,
        tied=True,
        attention_bias="as told",
        mlp_bias=True,
        windows="without rope",
        skips_rope=True,
    ),
}

# Keys that a type's own code does not read, whatever they say.
IGNORED: Mapping[str, frozenset[str]] = {
    "llama": frozenset({"sliding_window", "layer_types", "use_sliding_window", "max_window_layers"}),
    "mistral": frozenset({"attention_bias", "mlp_bias", "use_sliding_window", "max_window_layers"}),
    "qwen2": frozenset({"attention_bias", "mlp_bias", "sliding_window", "max_window_layers"}),
    "qwen3": frozenset({"mlp_bias", "sliding_window", "max_window_layers"}),
    "phi3": frozenset({"attention_bias", "mlp_bias", "layer_types"}),
    "granite": frozenset({"sliding_window", "layer_types", "use_sliding_window", "max_window_layers"}),
    "smollm3": frozenset({"sliding_window", "max_window_layers"}),
}
HARMLESS = frozenset(
    """
    pretraining_tp resid_pdrop embd_pdrop router_aux_loss_coef output_router_logits router_jitter_noise
    cache_implementation interpolate_factor full_attn_mod lm_head_bias tie_encoder_decoder pruned_heads
    """.split()
)

"""How GGUF files tell Gemma's models: what they leave to whoever reads them, and norms stored with one added.

Pure data; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.decoder.config import Config
from swarm.sepweight.family import GgufPlace

MODEL_TYPES: Mapping[str, str] = {"gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3_text"}
# Of which the scores' scale follows from the width and not from a head's: those of 27B, by their number of layers.
LARGEST_LAYERS: Mapping[str, int] = {"gemma2": 46, "gemma3": 62}
# Where a branch has norms on both sides.
SURROUNDING_NAMES: Mapping[str, str] = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def read_more(told: Config, architecture: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What the config.json would have besides the sizes and the rotation's scaling."""
    more: dict[str, Any] = {"model_type": MODEL_TYPES[architecture]}
    if architecture == "gemma":
        return more
    is_largest = sizes["num_hidden_layers"] == LARGEST_LAYERS[architecture]
    scalar = sizes["hidden_size"] // sizes["num_attention_heads"] if is_largest else sizes["head_dim"]
    scale = told.real("attention.scale", default=scalar**-0.5, above=0)
    more |= {
        "query_pre_attn_scalar": scale**-2,
        "sliding_window": told.number("attention.sliding_window", default=4096),
    }
    if architecture == "gemma2":
        more["attn_logit_softcapping"] = told.real("attn_logit_softcapping", default=50.0)
        more["final_logit_softcapping"] = told.real("final_logit_softcapping", default=30.0)
        return more
    more["rope_local_base_freq"] = told.real("rope.freq_base_swa", default=10000.0)
    more["sliding_window_pattern"] = told.number("attention.sliding_window_pattern", default=6)
    return more


def place_norm(config: Mapping[str, Any], prefix: str, stem: str, name: str) -> GgufPlace:
    """Where a norm lies. name: as other families' files call it."""
    has_both = config["model_type"] != "gemma"
    return GgufPlace(f"{prefix}{SURROUNDING_NAMES.get(stem, name) if has_both else name}.weight", add=-1.0)

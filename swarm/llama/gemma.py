"""Gemma's members of the LLaMA family: norms that multiply by 1 + w, before and after a branch, and rotations by layer.

Pure data; imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swarm.decoder.config import HARMLESS, MOST_LAYERS, Config
from swarm.decoder.description import Decoder, LayerKind, Rope, Slot
from swarm.errors import WeightsError
from swarm.llama.rope import read_rope, read_told_rope

SLIDING = "sliding_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmaTraits:
    """What tells the generations apart.

    kv_heads, theta: where the key is absent. is_third: four norms a layer, norms of queries and keys, and windows.
    """

    kv_heads: int
    theta: float
    is_third: bool


TRAITS: Mapping[str, GemmaTraits] = {
    "gemma": GemmaTraits(kv_heads=16, theta=1e4, is_third=False),
    "gemma3_text": GemmaTraits(kv_heads=4, theta=1e6, is_third=True),
}
_HEAD_DIM = 256
_WINDOW, _WINDOW_PATTERN = 4096, 6
_LOCAL_THETA = 1e4
# hidden_act: the first generation's files say "gelu" there and mean hidden_activation's default.
_IGNORED = frozenset({"cache_implementation", "hidden_act", "layer_types"})


def read_gemma_config(raw: Mapping[str, Any]) -> Decoder:
    """The decoder that a checkpoint's config describes. Raises WeightsError naming the key that is wrong or unknown."""
    config = Config(raw)
    trait = TRAITS[config.model_type(TRAITS)]
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", default=trait.kv_heads)
    head_dim = config.number("head_dim", default=_HEAD_DIM)
    layers = config.number("num_hidden_layers", most=MOST_LAYERS)
    context = config.number("max_position_embeddings")
    if trait.is_third:
        kinds, ropes = _read_kinds(config, layers), _read_ropes(config, head_dim, context, trait.theta)
    else:
        kinds, ropes = (LayerKind(),), (read_rope(config, head_dim, trait.theta, context, is_partial=False)[0],)
    decoder = Decoder(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=config.number("intermediate_size"),
        vocabulary=config.number("vocab_size"),
        context=context,
        slots=_slots(config, trait, hidden, heads * head_dim, kv_heads * head_dim, head_dim),
        final_norm=Slot("norm", (hidden,)),
        kinds=kinds,
        ropes=ropes,
        tied=config.flag("tie_word_embeddings", default=True),
        norm="rms_one",
        epsilon=config.real("rms_norm_eps", default=1e-6),
        activation=config.text("hidden_activation", default="gelu_pytorch_tanh"),
        attention_scale=config.real("query_pre_attn_scalar", default=256.0, above=0) ** -0.5
        if trait.is_third
        else None,
        embedding_scale=math.sqrt(hidden),
        rounds_embedding_scale=True,
        end_ids=config.ids("eos_token_id"),
    )
    _refuse_caps(config)
    config.refuse_unread(HARMLESS | _IGNORED)
    return decoder


def _slots(config: Config, trait: GemmaTraits, hidden: int, queries: int, keys: int, head_dim: int) -> dict[str, Slot]:
    has_bias, ffn = config.flag("attention_bias"), config.number("intermediate_size")
    slots = {
        "before_attention": Slot("input_layernorm", (hidden,)),
        "query": Slot("self_attn.q_proj", (queries, hidden), has_bias),
        "key": Slot("self_attn.k_proj", (keys, hidden), has_bias),
        "value": Slot("self_attn.v_proj", (keys, hidden), has_bias),
        "out": Slot("self_attn.o_proj", (hidden, queries), has_bias),
        "gate": Slot("mlp.gate_proj", (ffn, hidden)),
        "up": Slot("mlp.up_proj", (ffn, hidden)),
        "down": Slot("mlp.down_proj", (hidden, ffn)),
    }
    if not trait.is_third:
        return slots | {"before_mlp": Slot("post_attention_layernorm", (hidden,))}
    return slots | {
        "query_norm": Slot("self_attn.q_norm", (head_dim,)),
        "key_norm": Slot("self_attn.k_norm", (head_dim,)),
        "after_attention": Slot("post_attention_layernorm", (hidden,)),
        "before_mlp": Slot("pre_feedforward_layernorm", (hidden,)),
        "after_mlp": Slot("post_feedforward_layernorm", (hidden,)),
    }


def _read_kinds(config: Config, layers: int) -> tuple[LayerKind, ...]:
    """Layers that see all rotate as the first rope says, those with a window as the second."""
    window = config.number("sliding_window", default=_WINDOW)
    every = config.number("sliding_window_pattern", "_sliding_window_pattern", default=_WINDOW_PATTERN)
    named = config.texts("layer_types")
    if named and len(named) != layers:
        raise WeightsError(f"config: layer_types names {len(named)} layers of {layers}")
    slides = [one == SLIDING for one in named] if named else [bool((layer + 1) % every) for layer in range(layers)]
    full, local = LayerKind(0), LayerKind(1, window)
    return tuple(local if one else full for one in slides)


def _read_ropes(config: Config, head_dim: int, context: int, theta: float) -> tuple[Rope, Rope]:
    """In the spelling of the library's fifth version each kind of layer has its own object; before, the local one's theta
    has a key, and whatever slows the turning is for the others."""
    told = config.part("rope_parameters")
    local_theta = config.real("rope_local_base_freq", default=_LOCAL_THETA)
    if told.has("full_attention") or told.has(SLIDING):
        full, local = told.part("full_attention"), told.part(SLIDING)
        told.refuse_unread()
        return (
            read_told_rope(config, full, head_dim, theta, context, is_partial=False)[0],
            read_told_rope(config, local, head_dim, local_theta, context, is_partial=False)[0],
        )
    return (
        read_rope(config, head_dim, theta, context, is_partial=False)[0],
        Rope(rotated=head_dim, theta=local_theta),
    )


def _refuse_caps(config: Config) -> None:
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(name) is not None:
            raise WeightsError(f"config: {name} is {config.get(name)}; soft-caps are not implemented")
    if config.flag("use_bidirectional_attention"):
        raise WeightsError("config: use_bidirectional_attention is not implemented")

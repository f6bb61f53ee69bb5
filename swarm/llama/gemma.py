"""Gemma's members of the LLaMA family: norms that multiply by 1 + w, before and after a branch, windows, rotations and caps.

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
from swarm.llama.windows import SLIDING, read_sliding


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmaTraits:
    """What tells the generations apart, and defaults of keys that configs leave out.

    pattern: every so many-th layer sees all, the others have a window; None: all see all. surrounds: a branch has a norm
    before it and one after it. local_theta: of the rotation that layers with a window have to themselves.
    """

    kv_heads: int
    theta: float = 1e4
    pattern: int | None = None
    surrounds: bool = False
    head_norms: bool = False
    local_theta: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    heads: int | None = None
    vocabulary: int | None = None
    context: int | None = None


TRAITS: Mapping[str, GemmaTraits] = {
    "gemma": GemmaTraits(kv_heads=16),
    "gemma2": GemmaTraits(kv_heads=4, pattern=2, surrounds=True, attention_cap=50.0, logit_cap=30.0),
    "gemma3_text": GemmaTraits(
        kv_heads=4,
        theta=1e6,
        pattern=6,
        surrounds=True,
        head_norms=True,
        local_theta=1e4,
        # what the larger ones' files, which wrap this one, leave to the class
        heads=8,
        vocabulary=262_208,
        context=131_072,
    ),
}
_HEAD_DIM = 256
_WINDOW = 4096
# hidden_act: the first generation's files say "gelu" there and mean hidden_activation's default.
_IGNORED: Mapping[str, frozenset[str]] = {
    "gemma": frozenset({"cache_implementation", "hidden_act", "layer_types"}),
    "gemma2": frozenset({"cache_implementation", "hidden_act"}),
    "gemma3_text": frozenset({"cache_implementation", "hidden_act", "attn_logit_softcapping"}),
}


def read_gemma_config(raw: Mapping[str, Any]) -> Decoder:
    """The decoder that a checkpoint's config describes. Raises WeightsError naming the key that is wrong or unknown."""
    config = Config(raw)
    kind = config.model_type(TRAITS)
    trait = TRAITS[kind]
    hidden = config.number("hidden_size")
    heads = config.number("num_attention_heads", default=trait.heads)
    kv_heads = config.number("num_key_value_heads", default=trait.kv_heads)
    head_dim = config.number("head_dim", default=_HEAD_DIM)
    layers = config.number("num_hidden_layers", most=MOST_LAYERS)
    context = config.number("max_position_embeddings", default=trait.context)
    decoder = Decoder(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=config.number("intermediate_size"),
        vocabulary=config.number("vocab_size", default=trait.vocabulary),
        context=context,
        slots=_slots(config, trait, hidden, heads * head_dim, kv_heads * head_dim, head_dim),
        final_norm=Slot("norm", (hidden,)),
        kinds=_read_kinds(config, trait, layers),
        ropes=_read_ropes(config, trait, head_dim, context),
        tied=config.flag("tie_word_embeddings", default=True),
        norm="rms_one",
        epsilon=config.real("rms_norm_eps", default=1e-6),
        activation=config.text("hidden_activation", default="gelu_pytorch_tanh"),
        attention_scale=config.real("query_pre_attn_scalar", default=256.0, above=0) ** -0.5
        if trait.surrounds
        else None,
        attention_cap=_read_cap(config, "attn_logit_softcapping", trait.attention_cap),
        embedding_scale=math.sqrt(hidden),
        rounds_embedding_scale=True,
        logit_cap=_read_cap(config, "final_logit_softcapping", trait.logit_cap),
        end_ids=config.ids("eos_token_id"),
    )
    if config.flag("use_bidirectional_attention"):
        raise WeightsError("config: use_bidirectional_attention is not implemented")
    config.refuse_unread(HARMLESS | _IGNORED[kind])
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
    if trait.head_norms:
        slots["query_norm"] = Slot("self_attn.q_norm", (head_dim,))
        slots["key_norm"] = Slot("self_attn.k_norm", (head_dim,))
    if not trait.surrounds:
        return slots | {"before_mlp": Slot("post_attention_layernorm", (hidden,))}
    return slots | {
        "after_attention": Slot("post_attention_layernorm", (hidden,)),
        "before_mlp": Slot("pre_feedforward_layernorm", (hidden,)),
        "after_mlp": Slot("post_feedforward_layernorm", (hidden,)),
    }


def _read_cap(config: Config, name: str, default: float | None) -> float | None:
    """A cap; null is none."""
    if config.has(name) and config.get(name) is None:
        return None
    return config.real(name, default=default, above=0) if default or config.has(name) else None


def _read_kinds(config: Config, trait: GemmaTraits, layers: int) -> tuple[LayerKind, ...]:
    """Layers that see all rotate as the first rope says, those with a window as the last."""
    if trait.pattern is None:
        return (LayerKind(),)
    window = config.number("sliding_window", default=_WINDOW)
    every = config.number("sliding_window_pattern", "_sliding_window_pattern", default=trait.pattern)
    slides = read_sliding(config, layers) or [bool((layer + 1) % every) for layer in range(layers)]
    full, local = LayerKind(0), LayerKind(0 if trait.local_theta is None else 1, window)
    return tuple(local if one else full for one in slides)


def _read_ropes(config: Config, trait: GemmaTraits, head_dim: int, context: int) -> tuple[Rope, ...]:
    """In the spelling of the library's fifth version each kind of layer has its own object; before, the local one's theta
    has a key, and whatever slows the turning is for the others."""
    if trait.local_theta is None:
        return (read_rope(config, head_dim, trait.theta, context, is_partial=False)[0],)
    told = config.part("rope_parameters")
    local_theta = config.real("rope_local_base_freq", default=trait.local_theta)
    if told.has("full_attention") or told.has(SLIDING):
        full, local = told.part("full_attention"), told.part(SLIDING)
        told.refuse_unread()
        return (
            read_told_rope(config, full, head_dim, trait.theta, context, is_partial=False)[0],
            read_told_rope(config, local, head_dim, local_theta, context, is_partial=False)[0],
        )
    return (
        read_rope(config, head_dim, trait.theta, context, is_partial=False)[0],
        Rope(rotated=head_dim, theta=local_theta),
    )

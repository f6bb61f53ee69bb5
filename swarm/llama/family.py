"""The LLaMA family: how its configs are read, and how its tensors are called. What tells its members apart is in traits.py.

Pure data; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from swarm.decoder.config import HARMLESS, MOST_LAYERS, Config
from swarm.decoder.description import Decoder, DecoderFamily, LayerKind, Slot
from swarm.errors import WeightsError
from swarm.llama import consolidated, gemma, gguf, traits
from swarm.llama.rope import read_rope
from swarm.llama.traits import TRAITS, Traits
from swarm.llama.windows import read_sliding
from swarm.sepweight.family import GgufFacts, GgufPlace, ShardedPlace

PREFIXES = ("model.", "model.language_model.", "language_model.model.", "model.text_model.")


def read_llama_config(raw: Mapping[str, Any]) -> Decoder:
    """The decoder that a checkpoint's config describes.

    Raises WeightsError naming the key that is missing, unknown or asks for mathematics that is not implemented.
    """
    if raw.get("model_type") in gemma.TRAITS:
        return gemma.read_gemma_config(raw)
    config = Config(raw)
    kind = config.model_type((*TRAITS, *gemma.TRAITS))
    if config.get("quantization_config") is not None:
        raise WeightsError("config: quantization_config: weights that are quantised already are not implemented")
    trait = TRAITS[kind]
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", default=trait.kv_heads or heads)
    head_dim = config.number("head_dim", default=trait.head_dim or _divide(hidden, heads))
    layers = config.number("num_hidden_layers", most=MOST_LAYERS)
    ffn = config.number("intermediate_size")
    rope, context = read_rope(
        config, head_dim, trait.theta, config.number("max_position_embeddings"), is_partial=trait.is_partial
    )
    decoder = Decoder(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocabulary=config.number("vocab_size"),
        context=context,
        slots=_slots(config, trait, hidden, heads * head_dim, kv_heads * head_dim, head_dim, ffn),
        final_norm=Slot("norm", (hidden,)),
        kinds=_read_kinds(config, trait, layers),
        ropes=(rope,),
        tied=config.flag("tie_word_embeddings", trait.tied),
        epsilon=config.real("rms_norm_eps", default=trait.epsilon),
        activation=config.text("hidden_act", default="silu"),
        end_ids=config.ids("eos_token_id"),
    )
    if trait.has_multipliers:
        decoder = replace(
            decoder,
            embedding_scale=config.real("embedding_multiplier", default=1.0),
            residual_scale=config.real("residual_multiplier", default=1.0),
            attention_scale=config.real("attention_multiplier", default=1.0),
            logit_scale=1 / config.real("logits_scaling", default=1.0, above=0),
        )
    config.refuse_unread(HARMLESS | traits.HARMLESS | traits.IGNORED[kind])
    return decoder


def _divide(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise WeightsError(f"config: head_dim is missing, and hidden_size {hidden} does not divide by {heads} heads")
    return hidden // heads


def _slots(
    config: Config, trait: Traits, hidden: int, queries: int, keys: int, head_dim: int, ffn: int
) -> dict[str, Slot]:
    """What a layer's tensors are for, in the order in which a file holds them. queries, keys: how wide all heads' are."""
    told = trait.attention_bias == "as told" and config.flag("attention_bias")
    has_bias = told or trait.attention_bias == "not of out"
    has_mlp_bias = trait.mlp_bias and config.flag("mlp_bias")
    slots = {"before_attention": Slot("input_layernorm", (hidden,))}
    if trait.is_fused:
        slots["query_key_value"] = Slot("self_attn.qkv_proj", (queries + 2 * keys, hidden), has_bias)
    else:
        slots["query"] = Slot("self_attn.q_proj", (queries, hidden), has_bias)
        slots["key"] = Slot("self_attn.k_proj", (keys, hidden), has_bias)
        slots["value"] = Slot("self_attn.v_proj", (keys, hidden), has_bias)
    if trait.head_norms:
        slots["query_norm"] = Slot("self_attn.q_norm", (head_dim,))
        slots["key_norm"] = Slot("self_attn.k_norm", (head_dim,))
    slots["out"] = Slot("self_attn.o_proj", (hidden, queries), told)
    slots["before_mlp"] = Slot("post_attention_layernorm", (hidden,))
    if trait.is_fused:
        slots["gate_up"] = Slot("mlp.gate_up_proj", (2 * ffn, hidden), has_mlp_bias)
    else:
        slots["gate"] = Slot("mlp.gate_proj", (ffn, hidden), has_mlp_bias)
        slots["up"] = Slot("mlp.up_proj", (ffn, hidden), has_mlp_bias)
    slots["down"] = Slot("mlp.down_proj", (hidden, ffn), has_mlp_bias)
    return slots


def _read_kinds(config: Config, trait: Traits, layers: int) -> tuple[LayerKind, ...]:
    """Which layers rotate, and how far each sees."""
    rotates = _read_rotating(config, layers) if trait.skips_rope else None
    window = _read_window(config, trait)
    if window is None and rotates is None:
        return (LayerKind(),)
    named = read_sliding(config, layers)
    first = config.number("max_window_layers", default=28) if trait.windows == "last" else 0
    kinds: list[LayerKind] = []
    for layer in range(layers):
        has_rope = rotates is None or rotates[layer]
        slides = layer >= first if trait.windows != "without rope" else not has_rope
        if named:
            slides = named[layer]
        kinds.append(LayerKind(0 if has_rope else None, window if slides else None))
    return tuple(kinds)


def _read_window(config: Config, trait: Traits) -> int | None:
    """How far the layers see that have a window; None if none has."""
    if trait.windows == "never":
        return None
    if trait.windows != "all" and not config.flag("use_sliding_window"):
        config.get("layer_types")
        return None
    if config.has("sliding_window") and config.get("sliding_window") is None:
        return None
    if trait.window is None and not config.has("sliding_window"):
        return None
    return config.number("sliding_window", default=trait.window)


def _read_rotating(config: Config, layers: int) -> list[bool]:
    """Which layers rotate queries and keys."""
    told = config.ids("no_rope_layers")
    if not told:
        interval = config.number("no_rope_layer_interval", default=4)
        return [bool((layer + 1) % interval) for layer in range(layers)]
    config.get("no_rope_layer_interval")
    if len(told) != layers:
        raise WeightsError(f"config: no_rope_layers names {len(told)} layers of {layers}")
    return [bool(one) for one in told]


class LlamaFamily(DecoderFamily):
    """The spellings of configs, files and tensors."""

    name = "llama"
    model_types: tuple[str, ...] = (*TRAITS, *gemma.TRAITS)
    gguf_architectures: tuple[str, ...] = gguf.ARCHITECTURES

    def read(self, raw: Mapping[str, Any]) -> Decoder:
        return read_llama_config(raw)

    def checkpoint_names(self, key: str, tensor: str) -> tuple[str, ...]:
        head = ("lm_head.weight", "language_model.lm_head.weight")
        if tensor == "lm_head.weight":
            return head
        if key.startswith("mid."):
            tensor = f"layers.{int(key.removeprefix('mid.'))}.{tensor}"
        names = tuple(prefix + tensor for prefix in PREFIXES)
        return names + head if key == "begin" else names  # a tied checkpoint may store its one matrix under either name

    def read_gguf(self, file: GgufFacts) -> dict[str, Any]:
        return gguf.read_gguf(file)

    def place_gguf(self, config: Mapping[str, Any], key: str, tensor: str) -> GgufPlace:
        return gguf.place_gguf(config, key, tensor)

    def read_params(self, raw: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], shards: int) -> dict[str, Any]:
        return consolidated.read_params(raw, shapes, shards)

    def place_sharded(
        self, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], key: str, tensor: str
    ) -> ShardedPlace:
        return consolidated.place_tensor(config, shapes, key, tensor)


LLAMA = LlamaFamily()

"""Falcon: how its configs are read, and how its tensors are called.

Pure data; imports no torch. Every spelling that checkpoints use is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from swarm.decoder.config import HARMLESS, MOST_LAYERS, Config
from swarm.decoder.description import Decoder, DecoderFamily, LayerKind, Rope, Slot
from swarm.errors import WeightsError
from swarm.falcon import gguf
from swarm.sepweight.family import GgufFacts, GgufPlace

Norms = Literal["one", "two_parallel", "sequential"]

MODEL_TYPES = ("falcon", "RefinedWebModel", "RefinedWeb")

# Keys that no Falcon computation reads, besides those of any family.
_HARMLESS = HARMLESS | {"apply_residual_connection_post_layernorm", "hidden_dropout"}


def read_falcon_config(raw: Mapping[str, Any]) -> Decoder:
    """The decoder that a checkpoint's config describes, in any spelling in use.

    Raises WeightsError naming the key that is missing, unknown or asks for mathematics that is not implemented.
    """
    config = Config(raw)
    config.model_type(MODEL_TYPES)
    if config.flag("apply_residual_connection_post_layernorm"):
        raise WeightsError("config: apply_residual_connection_post_layernorm=true is not implemented")
    hidden = config.number("hidden_size", "n_embed")
    heads = config.number("num_attention_heads", "n_head")
    if hidden % heads:
        raise WeightsError(f"config: hidden_size {hidden} must divide by {heads} heads")
    head_dim = config.number("head_dim", default=hidden // heads)
    if head_dim != hidden // heads:
        raise WeightsError(f"config: head_dim {head_dim} is not hidden_size / heads = {hidden // heads}")
    parallel = config.flag("parallel_attn", default=True)
    # Legacy 40B files say nothing of the new architecture but give n_head_kv, which 7B and rw files do not have.
    grouped = config.flag("new_decoder_architecture", default=config.get("n_head_kv") is not None)
    kv_heads = config.number("num_kv_heads", "n_head_kv", default=heads)
    multi_query = config.flag("multi_query", default=True)
    if not grouped:
        kv_heads = 1 if multi_query else heads
    ffn = config.number("ffn_hidden_size", default=4 * hidden)
    norms = _norms(config, grouped, parallel)
    alibi = config.flag("alibi")
    decoder = Decoder(
        layers=config.number("num_hidden_layers", "n_layer", most=MOST_LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocabulary=config.number("vocab_size"),
        context=config.number("max_position_embeddings", "seq_length", default=2048),
        slots=_slots(norms, hidden, (heads + 2 * kv_heads) * head_dim, ffn, config.flag("bias")),
        final_norm=Slot("ln_f", (hidden,), has_bias=True),
        kinds=(LayerKind(rope=None if alibi else 0),),
        ropes=(Rope(rotated=head_dim, theta=_rope_theta(config)),),
        embedding="word_embeddings",
        parallel=norms != "sequential",
        fused="grouped",
        alibi=alibi,
        norm="layer",
        tied=config.flag("tie_word_embeddings", default=True),
        epsilon=config.real("layer_norm_epsilon", default=1e-5),
        activation=config.text("activation", default="gelu"),
        end_ids=config.ids("eos_token_id") if config.has("eos_token_id") else (11,),
    )
    config.refuse_unread(_HARMLESS)
    return decoder


def _norms(config: Config, grouped: bool, parallel: bool) -> Norms:
    count = config.get("num_ln_in_parallel_attn")
    if not grouped:
        return "one" if parallel else "sequential"
    if count == 2 or count is None:
        return "two_parallel"
    if not parallel:
        raise WeightsError("config: new_decoder_architecture with parallel_attn=false and one norm is not implemented")
    return "one"


def _rope_theta(config: Config) -> float:
    told = config.part("rope_parameters", "rope_scaling")
    theta = told.real("rope_theta", default=config.real("rope_theta", "rotary_base", default=10000.0))
    kind, odd = told.text("rope_type", "type", default="default"), told.unread
    if kind != "default" or odd:
        raise WeightsError(
            f'config: rope scaling of type "{kind}" ({", ".join(odd)}) is not implemented; use "default"'
        )
    return theta


def _slots(norms: Norms, hidden: int, fused_width: int, ffn: int, has_bias: bool) -> dict[str, Slot]:
    """What a layer's tensors are for, in the order in which a file holds them."""
    slots = {
        "query_key_value": Slot("self_attention.query_key_value", (fused_width, hidden), has_bias),
        "out": Slot("self_attention.dense", (hidden, hidden), has_bias),
        "up": Slot("mlp.dense_h_to_4h", (ffn, hidden), has_bias),
        "down": Slot("mlp.dense_4h_to_h", (hidden, ffn), has_bias),
    }
    names = {
        "one": ("input_layernorm",),
        "two_parallel": ("ln_attn", "ln_mlp"),
        "sequential": ("input_layernorm", "post_attention_layernorm"),
    }[norms]
    before = zip(("before_attention", "before_mlp"), names, strict=False)
    return slots | {role: Slot(name, (hidden,), has_bias=True) for role, name in before}


class FalconFamily(DecoderFamily):
    """Falcon's spellings: of configs, and of the files, shapes and names of its tensors."""

    name = "falcon"
    model_types: tuple[str, ...] = MODEL_TYPES
    gguf_architectures: tuple[str, ...] = (gguf.ARCHITECTURE,)

    def read(self, raw: Mapping[str, Any]) -> Decoder:
        return read_falcon_config(raw)

    def checkpoint_names(self, key: str, tensor: str) -> tuple[str, ...]:
        if tensor == "word_embeddings.weight":
            # A tied checkpoint may store its one matrix under either name.
            return ("transformer.word_embeddings.weight", "lm_head.weight")
        if tensor == "lm_head.weight":
            return ("lm_head.weight", "transformer.word_embeddings.weight")
        if key == "end":
            return (f"transformer.{tensor}",)
        return (f"transformer.h.{int(key.removeprefix('mid.'))}.{tensor}",)

    def read_gguf(self, file: GgufFacts) -> dict[str, Any]:
        return gguf.read_gguf(file)

    def place_gguf(self, config: Mapping[str, Any], key: str, tensor: str) -> GgufPlace:
        return gguf.place_gguf(config, key, tensor)


FALCON = FalconFamily()

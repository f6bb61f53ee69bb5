"""Falcon: how its configs are read, and how its tensors are called.

Pure data; imports no torch. Every spelling that checkpoints use is read here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, cast

from swarm.decoder.description import Decoder, Slot
from swarm.errors import WeightsError
from swarm.sepweight.family import Outline
from swarm.sepweight.manifest import layer_key

Norms = Literal["one", "two_parallel", "sequential"]

MODEL_TYPES = ("falcon", "RefinedWebModel", "RefinedWeb")

# Keys that no Falcon computation reads. Anything that is neither here nor read below is refused: it may change the maths.
_HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation architectures attention_dropout auto_map apply_residual_connection_post_layernorm
    bos_token_id chunk_size_feed_forward dtype eos_token_id finetuning_task hidden_dropout id2label initializer_range
    is_decoder is_encoder_decoder label2id max_new_tokens model_type name_or_path output_attentions output_hidden_states
    pad_token_id problem_type return_dict torch_dtype transformers_version unk_token_id use_cache use_return_dict
    """.split()
)
_READ = frozenset(
    """
    activation alibi bias ffn_hidden_size head_dim hidden_size layer_norm_epsilon max_position_embeddings multi_query
    n_embed n_head n_head_kv n_layer new_decoder_architecture num_attention_heads num_hidden_layers num_kv_heads
    num_ln_in_parallel_attn parallel_attn rope_parameters rope_scaling rope_theta rotary_base seq_length
    tie_word_embeddings vocab_size
    """.split()
)


def read_falcon_config(raw: Mapping[str, Any]) -> Decoder:
    """The decoder that a checkpoint's config describes, in any spelling in use.

    Raises WeightsError naming the key that is missing, unknown or asks for mathematics that is not implemented.
    """
    if raw.get("model_type") not in MODEL_TYPES:
        raise WeightsError(
            f'config: model_type "{raw.get("model_type")}" is unsupported; known: {", ".join(MODEL_TYPES)}'
        )
    unknown = sorted(key for key in raw if key not in _HARMLESS | _READ and raw[key] not in (None, False))
    if unknown:
        raise WeightsError(
            f"config: unknown key {', '.join(unknown)}: it may change the mathematics; "
            "remove it from config.json if you know that it does not"
        )
    if raw.get("apply_residual_connection_post_layernorm"):
        raise WeightsError("config: apply_residual_connection_post_layernorm=true is not implemented")
    hidden = _number(raw, "hidden_size", "n_embed")
    heads = _number(raw, "num_attention_heads", "n_head")
    if raw.get("head_dim") not in (None, hidden // heads):
        raise WeightsError(f"config: head_dim {raw['head_dim']} is not hidden_size / heads = {hidden // heads}")
    parallel = bool(raw.get("parallel_attn", True))
    named_kv_heads = raw.get("num_kv_heads", raw.get("n_head_kv"))
    # Legacy 40B files say nothing of the new architecture but give n_head_kv, which 7B and rw files do not have.
    grouped = bool(raw.get("new_decoder_architecture", raw.get("n_head_kv") is not None))
    if grouped:
        kv_heads = heads if named_kv_heads is None else _whole("num_kv_heads", named_kv_heads)
    else:
        kv_heads = 1 if raw.get("multi_query", True) else heads
    ffn = _whole("ffn_hidden_size", raw.get("ffn_hidden_size") or 4 * hidden)
    norms = _norms(raw, grouped, parallel)
    fused_width = (heads + 2 * kv_heads) * (hidden // heads)
    eos = raw.get("eos_token_id", 11)
    return Decoder(
        layers=_number(raw, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        vocabulary=_number(raw, "vocab_size"),
        context=_whole("max_position_embeddings", raw.get("max_position_embeddings") or raw.get("seq_length") or 2048),
        slots=_slots(norms, hidden, fused_width, ffn, bool(raw.get("bias", False))),
        final_norm=Slot("ln_f", (hidden,), has_bias=True),
        parallel=norms != "sequential",
        alibi=bool(raw.get("alibi", False)),
        tied=bool(raw.get("tie_word_embeddings", True)),
        epsilon=_real("layer_norm_epsilon", raw.get("layer_norm_epsilon") or 1e-5),
        rope_theta=_rope_theta(raw),
        activation=str(raw.get("activation") or "gelu"),
        end_ids=_ids("eos_token_id", eos),
    )


def _number(raw: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if raw.get(name) is not None:
            value = _whole(name, raw[name])
            if value <= 0:
                raise WeightsError(f"config: {name} is {value}; it must be a positive number")
            return value
    raise WeightsError(f"config: {' or '.join(names)} is missing")


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise WeightsError(f"config: {name} is {json.dumps(value)[:60]}; it must be a whole number")
    return value


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WeightsError(f"config: {name} is {json.dumps(value)[:60]}; it must be a number")
    return float(value)


def _ids(name: str, value: object) -> tuple[int, ...]:
    values = cast("list[object]", value) if isinstance(value, list) else [] if value is None else [value]
    return tuple(_whole(name, one) for one in values)


def _norms(raw: Mapping[str, Any], grouped: bool, parallel: bool) -> Norms:
    if not grouped:
        return "one" if parallel else "sequential"
    count = raw.get("num_ln_in_parallel_attn")
    if count == 2 or count is None:
        return "two_parallel"
    if not parallel:
        raise WeightsError("config: new_decoder_architecture with parallel_attn=false and one norm is not implemented")
    return "one"


def _rope_theta(raw: Mapping[str, Any]) -> float:
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise WeightsError(f"config: rope_parameters is {json.dumps(given)[:60]}; it must be an object")
    parameters = cast("Mapping[str, Any]", given)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    odd = sorted(set(parameters) - {"rope_type", "type", "rope_theta"})
    if kind != "default" or odd:
        raise WeightsError(
            f'config: rope scaling of type "{kind}" ({", ".join(odd)}) is not implemented; use "default"'
        )
    theta = parameters.get("rope_theta") or raw.get("rope_theta") or raw.get("rotary_base") or 10000.0
    return _real("rope_theta", theta)


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


class FalconFamily:
    """Falcon's spellings: of configs, and of the files, shapes and names of its tensors."""

    name = "falcon"
    model_types: tuple[str, ...] = MODEL_TYPES

    def read(self, raw: Mapping[str, Any]) -> Decoder:
        return read_falcon_config(raw)

    def outline(self, config: Mapping[str, Any]) -> Outline:
        falcon = read_falcon_config(config)
        embedding = (falcon.vocabulary, falcon.hidden)
        head = {} if falcon.tied else {"lm_head.weight": embedding}
        return Outline(
            layers=falcon.layers,
            files={
                "begin": {"word_embeddings.weight": embedding},
                **{layer_key(layer): falcon.layer_tensors for layer in range(falcon.layers)},
                "end": {**falcon.final_norm.tensors, **head},
            },
            aliases={"end": {"lm_head.weight": "begin/word_embeddings.weight"}} if falcon.tied else {},
        )

    def checkpoint_names(self, key: str, tensor: str) -> tuple[str, ...]:
        if tensor == "word_embeddings.weight":
            # A tied checkpoint may store its one matrix under either name.
            return ("transformer.word_embeddings.weight", "lm_head.weight")
        if tensor == "lm_head.weight":
            return ("lm_head.weight", "transformer.word_embeddings.weight")
        if key == "end":
            return (f"transformer.{tensor}",)
        return (f"transformer.h.{int(key.removeprefix('mid.'))}.{tensor}",)


FALCON = FalconFamily()

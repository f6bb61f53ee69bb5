"""Configs of the LLaMA family as checkpoints spell them, and those that are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.decoder.description import LayerKind
from swarm.errors import WeightsError
from swarm.llama.family import LLAMA, read_llama_config

LEAST: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "vocab_size": 97,
    "max_position_embeddings": 512,
}


def read(**changes: Any) -> Any:
    return read_llama_config({**LEAST, **changes})


@pytest.mark.parametrize(
    ("model_type", "kv_heads", "head_dim", "epsilon", "theta", "tied"),
    [
        ("llama", 4, 16, 1e-6, 1e4, False),
        ("qwen3", 32, 128, 1e-6, 1e4, False),
        ("phi3", 4, 16, 1e-5, 1e4, False),
        ("granite", 4, 16, 1e-6, 1e4, False),
        ("smollm3", 4, 16, 1e-6, 2e6, True),
        ("gemma", 16, 256, 1e-6, 1e4, True),
        ("gemma2", 4, 256, 1e-6, 1e4, True),
        ("gemma3_text", 4, 256, 1e-6, 1e6, True),
    ],
)
def test_what_a_config_leaves_out_is_its_types_default(
    model_type: str, kv_heads: int, head_dim: int, epsilon: float, theta: float, tied: bool
) -> None:
    decoder = read(model_type=model_type, num_attention_heads=max(4, kv_heads))
    assert (decoder.kv_heads, decoder.head_dim, decoder.epsilon) == (kv_heads, head_dim, epsilon)
    assert (decoder.ropes[0].theta, decoder.tied) == (theta, tied)


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"model_type": "llama", "sliding_window": 9}, {None}),
        ({"model_type": "mistral", "num_key_value_heads": 2}, {4096}),
        ({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None}, {None}),
        ({"model_type": "qwen2", "num_key_value_heads": 2, "sliding_window": 131072}, {None}),
        (
            {"model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": True, "max_window_layers": 4},
            {None, 4096},
        ),
        ({"model_type": "phi3"}, {None}),
        ({"model_type": "phi3", "sliding_window": 100}, {100}),
    ],
)
def test_windows_are_there_where_the_type_reads_them(changes: dict[str, Any], windows: set[int | None]) -> None:
    decoder = read(**changes)
    assert {decoder.kind(layer).window for layer in range(decoder.layers)} == windows


def test_windows_by_layer_win_over_the_rule() -> None:
    told = ["full_attention", "sliding_attention"] * 3
    changes = {"use_sliding_window": True, "sliding_window": 8, "layer_types": told}
    decoder = read(model_type="qwen3", num_key_value_heads=2, **changes)
    assert decoder.kinds == (LayerKind(0, None), LayerKind(0, 8)) * 3


def test_spellings_of_rotation_old_and_new() -> None:
    new = read(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0})
    old = read(rope_scaling={"type": "linear", "factor": 4.0}, rope_theta=5000.0)
    assert new.ropes == old.ropes
    assert (old.ropes[0].theta, old.ropes[0].factor) == (5000.0, 4.0)
    outside = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 100}
    decoder = read(rope_scaling=outside, original_max_position_embeddings=200)
    assert decoder.ropes[0].original == 200


def test_a_long_rope_ends_where_all_would_have_to_be_rotated_anew() -> None:
    told = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    decoder = read(
        model_type="phi3", max_position_embeddings=131072, original_max_position_embeddings=4096, rope_scaling=told
    )
    assert decoder.context == 4096
    assert round(decoder.ropes[0].scale, 8) == 1.19023807


def test_frequencies_of_llama_3_are_the_published_ones() -> None:
    from swarm.decoder.positions import frequencies

    told = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    rope = read(head_dim=128, rope_theta=500000.0, rope_scaling=told).ropes[0]
    found = frequencies(rope)
    wanted = {29: 0.00216657063, 31: 0.00085675146, 63: 3.06892588e-07}
    assert all(abs(float(found[dim]) / value - 1) < 1e-6 for dim, value in wanted.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, 'model_type "mamba" is unsupported; known: llama, mistral'),
        ({"attn_logit_softcapping": 50.0}, "unknown key attn_logit_softcapping"),
        ({"quantization_config": {"bits": 4}}, "quantised already are not implemented"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 'rope scaling of type "dynamic" is not implemented'),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "rope_scaling: low_freq_factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta": 1}}, "rope_scaling: unknown key beta"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]; it must be an object"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, 'hidden_size is "64"; it must be a whole number'),
        ({"hidden_size": -4}, "hidden_size is -4; it must be a positive number"),
        ({"hidden_size": 66}, "head_dim is missing, and hidden_size 66 does not divide by 4 heads"),
        ({"num_key_value_heads": 3}, "4 heads must divide by 3 kv heads"),
        ({"num_hidden_layers": 1 << 30}, "num_hidden_layers is 1073741824; it must be a number of at most"),
        ({"model_type": "smollm3", "num_hidden_layers": 1 << 30}, "num_hidden_layers is 1073741824"),
        ({"hidden_act": "swish2"}, 'activation "swish2" is unsupported'),
        ({"rms_norm_eps": True}, "rms_norm_eps is true; it must be a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is NaN; it must be a number"),
        ({"model_type": "granite", "logits_scaling": 0}, "logits_scaling is 0; it must be a number above 0"),
        ({"rope_theta": 1.0}, "rope_theta is 1.0; it must be a number above 1"),
        ({"rope_scaling": {"type": "yarn", "factor": 0.0}}, "rope_scaling: factor is 0.0; it must be a number above 0"),
        (
            {"model_type": "phi3", "original_max_position_embeddings": 1, "rope_scaling": {"type": "longrope"}},
            "original_max_position_embeddings is 1",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "no_rope_layers names 2 layers of 6"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["full_attention"]},
            "layer_types names 1 layers of 6",
        ),
        (
            {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "short_factor has 1 numbers, the rotation takes 8",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        LLAMA.read({**LEAST, **changes})


def test_gemma_3s_windows_and_rotations_follow_its_old_spelling() -> None:
    """As google/gemma-3-1b's own config.json has them."""
    decoder = read(
        model_type="gemma3_text",
        sliding_window=512,
        sliding_window_pattern=3,
        rope_theta=1e6,
        rope_local_base_freq=1e4,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        query_pre_attn_scalar=168,
        hidden_activation="gelu_pytorch_tanh",
    )
    assert [kind.window for kind in decoder.kinds] == [512, 512, None] * 2
    assert [kind.rope for kind in decoder.kinds] == [1, 1, 0] * 2
    assert [(rope.kind, rope.theta) for rope in decoder.ropes] == [("linear", 1e6), ("default", 1e4)]
    assert decoder.attention_scale == 168**-0.5


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"final_logit_softcapping": 0.0}, "final_logit_softcapping is 0.0; it must be a number above 0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is not implemented"),
        ({"layer_types": ["full_attention"]}, "names 1 layers of 6"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
    ],
)
def test_what_gemma_asks_for_in_vain_is_refused_by_name(told: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read(model_type="gemma3_text", **told)


def test_gemma_2s_windows_and_caps_are_its_types_defaults() -> None:
    decoder = read(model_type="gemma2", num_attention_heads=8, query_pre_attn_scalar=144)
    assert [kind.window for kind in decoder.kinds] == [4096, None] * 3
    assert {kind.rope for kind in decoder.kinds} == {0}
    assert (decoder.attention_cap, decoder.logit_cap, decoder.attention_scale) == (50.0, 30.0, 144**-0.5)
    uncapped = read(model_type="gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (uncapped.attention_cap, uncapped.logit_cap) == (None, None)


def test_what_the_larger_gemma_3s_leave_out_is_their_types_default() -> None:
    told = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    decoder = LLAMA.read({"model_type": "gemma3_text", **told, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert (decoder.heads, decoder.kv_heads, decoder.head_dim) == (8, 4, 256)
    assert (decoder.vocabulary, decoder.context) == (262208, 131072)

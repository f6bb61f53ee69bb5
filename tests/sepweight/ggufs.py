"""GGUF files that tests write with the format's own library, from tiny checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from torch import Tensor
from transformers import PreTrainedModel

from swarm.checkpoints import open_checkpoint
from swarm.sepweight.convert import convert_source
from swarm.sepweight.manifest import Manifest

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
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
GEMMA_NAMES = LLAMA_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
FALCON_NAMES = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm",
    "ln_attn": "attn_norm_2",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def tensors_of(model: PreTrainedModel, names: Mapping[str, str]) -> dict[str, Tensor]:
    """A model's tensors by the format's names, in the checkpoint's order of rows."""
    is_tied = bool(model.config.tie_word_embeddings)
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if is_tied and stem == "lm_head":
            continue
        words = stem.split(".")
        if words[-1].isdigit() or len(words) < 3:
            found[f"{names[stem]}.{kind}"] = tensor
            continue
        number = next(word for word in words if word.isdigit())
        rest = ".".join(words[words.index(number) + 1 :])
        found[f"blk.{number}.{names[rest]}.{kind}"] = tensor
    return found


def interleave(tensor: Tensor, heads: int) -> Tensor:
    """Queries or keys as files of the architectures llama, granite and smollm3 have them: rotated pairs side by side."""
    return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def ungroup(tensor: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Falcon's fused rows as files have them: all queries, all keys, all values."""
    group = heads // kv_heads
    grouped = tensor.view(kv_heads, group + 2, -1, tensor.shape[-1])
    parts = grouped[:, :group], grouped[:, group : group + 1], grouped[:, group + 1 :]
    return torch.cat([part.reshape(-1, tensor.shape[-1]) for part in parts])


def write_gguf(
    path: Path,
    architecture: str,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    matrices: str = "F32",
    tokens: Sequence[str] | None = None,
    merges: Sequence[str] = (),
    pre: str = "gpt-2",
    others: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """fields: of the architecture, without its prefix; or whole names. matrices: the type of whatever has two dimensions.

    others: tensors of another type.
    """
    writer = GGUFWriter(path, architecture)
    for name, value in fields.items():
        if name == "tokenizer.ggml.model":
            continue
        whole = name if name.startswith(("tokenizer.", "general.", "split.")) else f"{architecture}.{name}"
        match value:
            case bool():
                writer.add_bool(whole, value)
            case int():
                writer.add_uint32(whole, value)
            case float():
                writer.add_float32(whole, value)
            case str():
                writer.add_string(whole, value)
            case _:
                writer.add_array(whole, value)
    if tokens is not None:
        writer.add_tokenizer_model(str(fields.get("tokenizer.ggml.model", "gpt2")))
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(list(tokens))
        writer.add_token_merges(list(merges))
    for name, tensor in tensors.items():
        kind = GGMLQuantizationType[others.get(name, matrices) if tensor.ndim == 2 else "F32"]
        data = tensor.float().contiguous().numpy()
        packed = data.astype(np.float16) if kind.name == "F16" else data if kind.name == "F32" else quantize(data, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_fields(model: PreTrainedModel) -> dict[str, Any]:
    """What a file says of a model of the LLaMA family; less what only one member has."""
    config = model.config
    rope = config.rope_parameters
    fields: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "context_length": config.max_position_embeddings,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
        "tokenizer.ggml.eos_token_id": config.eos_token_id,
    }
    if getattr(config, "head_dim", None):
        fields |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    return fields


def convert(path: Path, destination: Path, **options: Any) -> Manifest:
    """A GGUF file as a sepweight directory."""
    with open_checkpoint(path) as opened:
        return convert_source(opened.source, destination, opened.family, **options)

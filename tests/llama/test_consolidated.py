"""Checkpoints in Meta's own layout: shards joined, rotated pairs undone, tokenizers of both kinds."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from swarm.checkpoints import open_checkpoint
from swarm.errors import WeightsError
from swarm.llama.consolidated import LAYER_NAMES
from swarm.loading import init_part
from swarm.sepweight.convert import convert_source
from swarm.sepweight.manifest import read_manifest
from swarm.sepweight.tokenizer_model import read_tokenizer_model
from tests.llama.members import make_model

IDS = torch.randint(0, 90, (40,), generator=torch.Generator().manual_seed(1))
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
PARAMS: dict[str, Any] = {
    "dim": HEADS * HEAD_DIM,
    "n_layers": 4,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "vocab_size": -1,
    "multiple_of": 16,
    "norm_eps": 1e-6,
}
ROUNDING = 2e-5  # of logits up to 3 in float32: processors' kernels differ by half of that


def interleave(matrix: Tensor, heads: int) -> Tensor:
    """Pairs that rotate together side by side, which lie half a head apart."""
    return matrix.view(heads, 2, -1, matrix.shape[1]).transpose(1, 2).reshape(matrix.shape)


def save_consolidated(
    directory: Path, shards: int, *, embedding_by_token: bool = False, params: dict[str, Any] = PARAMS, **changes: Any
) -> PreTrainedModel:
    """Write a tiny LLaMA as Meta would."""
    model = make_model("llama", rms_norm_eps=1e-6, vocab_size=96, **changes)
    state = model.state_dict()
    whole = {
        "tok_embeddings.weight": (state["model.embed_tokens.weight"], 0 if embedding_by_token else 1),
        "norm.weight": (state["model.norm.weight"], None),
        "output.weight": (state["lm_head.weight"], 0),
    }
    for layer in range(4):
        for name, (theirs, dimension) in LAYER_NAMES.items():
            matrix = state[f"model.layers.{layer}.{name}.weight"]
            if name in ("self_attn.q_proj", "self_attn.k_proj"):
                matrix = interleave(matrix, HEADS if "q_proj" in name else KV_HEADS)
            whole[f"layers.{layer}.{theirs}.weight"] = (matrix, dimension)
    directory.mkdir()
    for shard in range(shards):
        pieces = {
            name: (one if dimension is None else one.chunk(shards, dimension)[shard]).clone()
            for name, (one, dimension) in whole.items()
        }
        torch.save({**pieces, "rope.freqs": torch.ones(HEAD_DIM // 2)}, directory / f"consolidated.{shard:02}.pth")
    (directory / "params.json").write_text(json.dumps(params))
    return model


def convert(source: Path, destination: Path) -> None:
    with open_checkpoint(source) as opened:
        convert_source(opened.source, destination, opened.family)


@pytest.mark.parametrize(("shards", "embedding_by_token"), [(1, False), (2, False), (2, True)])
def test_shards_become_the_model_that_they_were(shards: int, embedding_by_token: bool, tmp_path: Path) -> None:
    model = save_consolidated(tmp_path / "meta", shards, embedding_by_token=embedding_by_token)
    convert(tmp_path / "meta", tmp_path / "weights")
    with torch.inference_mode():
        assert torch.allclose(init_part(tmp_path / "weights", "f")(IDS), model(IDS[None]).logits[0], atol=1e-5, rtol=0)


def test_a_slowed_rotation_is_read(tmp_path: Path) -> None:
    params = {**PARAMS, "rope_theta": 500000.0, "use_scaled_rope": True}
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    told = {**rope, "original_max_position_embeddings": 8192}
    model = save_consolidated(tmp_path / "meta", 1, params=params, rope_parameters=told)
    convert(tmp_path / "meta", tmp_path / "weights")
    assert read_manifest(tmp_path / "weights").config["max_position_embeddings"] == 131072
    with torch.inference_mode():
        assert torch.allclose(
            init_part(tmp_path / "weights", "f")(IDS), model(IDS[None]).logits[0], atol=ROUNDING, rtol=0
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_chunk_size": 448}, "params.json: unknown key vision_chunk_size"),
        ({"dim": None}, "params.json: dim is missing"),
        ({"n_kv_heads": 4}, "6 heads must divide by 4 kv heads"),
        ({"n_layers": 5}, r"no tensor layers\.4\."),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_consolidated(tmp_path / "meta", 2, params={**PARAMS, **change})
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "meta", tmp_path / "weights")
    assert not (tmp_path / "weights" / "sepweight.json").exists()


# tokenizer.model ------------------------------------------------------------------------------------------------------


def write_ranks(path: Path, tokens: Sequence[bytes]) -> None:
    lines = [b"%s %d" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)]
    path.write_bytes(b"\n".join(lines) + b"\n")


def read_documents(directory: Path) -> dict[str, bytes]:
    with open_checkpoint(directory) as opened:
        return dict(opened.source.documents())


@pytest.mark.parametrize(("is_scaled", "turn_end", "extra"), [(False, 9, []), (True, 9, [8])])
def test_ranks_of_bytes_become_a_tokenizer(is_scaled: bool, turn_end: int, extra: list[int], tmp_path: Path) -> None:
    save_consolidated(tmp_path / "meta", 1, params={**PARAMS, "use_scaled_rope": is_scaled})
    words = [b"th", b"the", b" the", b"\xc3\xa9", b"at", b" c", b" cat"]
    write_ranks(tmp_path / "meta" / "tokenizer.model", [*(bytes([byte]) for byte in range(256)), *words])
    documents = read_documents(tmp_path / "meta")
    tokenizer = Tokenizer.from_buffer(documents["tokenizer.json"])
    base = 256 + len(words)
    assert tokenizer.encode("the cat\u00e9<|eot_id|>").ids == [base, 257, 262, 259, base + turn_end]
    assert tokenizer.get_vocab_size() == base + 256
    assert tokenizer.id_to_token(base + 255).startswith("<|reserved_special_token_")
    for text in ("caf\u00e9 \U0001f642 123", "  x\n\n"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    ends = json.loads(documents["generation_config.json"])["eos_token_id"]
    assert ends == [base + 1, base + turn_end, *(base + one for one in extra)]


def write_pieces(path: Path, pieces: Sequence[tuple[str, float, int]]) -> None:
    """A SentencePiece model: field 1 of each piece is its text, 2 its score, 3 its type; field 2 here is something else."""
    data = b"\x12\x02\x08\x01"
    for text, score, kind in pieces:
        spelled = text.encode()
        piece = b"\x0a%c%s\x15%s\x18%c" % (len(spelled), spelled, struct.pack("<f", score), kind)
        data += b"\x0a%c%s" % (len(piece), piece)
    path.write_bytes(data)


def test_pieces_with_scores_become_a_tokenizer(tmp_path: Path) -> None:
    save_consolidated(tmp_path / "meta", 1)
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [("\u2581a", -1.0, 1), ("ab", -2.0, 1), ("\u2581", -3.0, 1), ("a", -4.0, 1), ("b", -5.0, 1)]
    write_pieces(tmp_path / "meta" / "tokenizer.model", pieces)
    documents = read_documents(tmp_path / "meta")
    tokenizer = Tokenizer.from_buffer(documents["tokenizer.json"])
    assert tokenizer.encode("ab \u00e9").ids == [1, 259, 263, 261, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode("ab \u00e9").ids) == "ab \u00e9"
    assert json.loads(documents["generation_config.json"])["eos_token_id"] == [2]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a\xff",
        b"\x0a\x7fabc",
        b"\xff" * 12,
        b"\x08\x01",
        b"\x0a\x02\x08\x01",
        b"YQ== 1\n",
        b"YQ== 0\n!! 1\n",
        b"a b c\n",
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"is no tokenizer.model: .*; put a tokenizer.json beside it"):
        read_tokenizer_model(path, has_tools=False)

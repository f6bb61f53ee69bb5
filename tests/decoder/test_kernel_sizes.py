"""The same bits with matrices and heads as wide as in real models: kernels take other paths there than for tiny ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.decoder.linear import ReorderedLinear, has_kernels
from swarm.decoder.part import DecoderPart
from swarm.loading import init_part
from tests.llama.members import save_sepweight

DTYPES = [torch.float32, torch.bfloat16]
ROWS = 300
PIECES = [1, 2, 3, 4, 7, 16, 31, 32, 33, 64, 100, 129, 256]
LENGTH = 200
CUTS: dict[str, list[int]] = {
    "ones": [1] * LENGTH,
    "twos": [2] * 100,
    "33": [33] * 6 + [2],
    "64": [64] * 3 + [8],
    "odd": [35, 67, 5, 31, 1, 61],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2048, 2048), (8192, 2048), (2048, 8192), (576, 1536)], ids=str)
def test_a_row_of_a_product_is_the_same_in_any_company(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """shape: [out, in]."""
    if not has_kernels(dtype):
        pytest.skip(f"this processor has no kernels for reordered {dtype}")
    torch.manual_seed(0)
    linear = ReorderedLinear((torch.randn(shape) * shape[1] ** -0.5).to(dtype))
    x = torch.randn(ROWS, shape[1]).to(dtype)
    together = linear(x)
    differing = [
        piece for piece in PIECES if not torch.equal(torch.cat([linear(some) for some in x.split(piece)]), together)
    ]
    assert not differing


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [40, 64, 80, 96, 128, 256])
def test_any_cut_gives_the_bits_of_one_pass_whatever_the_width_of_a_head(
    head_dim: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    compare_cuts("llama", head_dim, dtype, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [128, 144, 256])
def test_any_cut_gives_the_bits_of_one_pass_where_scores_have_a_cap(
    head_dim: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    compare_cuts("gemma2", head_dim, dtype, tmp_path)


def compare_cuts(member: str, head_dim: int, dtype: torch.dtype, tmp_path: Path) -> None:
    for heads, kv_heads in ((6, 2), (2, 2), (4, 1)):
        weights = tmp_path / f"{heads}-{kv_heads}"
        changes: dict[str, Any] = {
            "head_dim": head_dim,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "num_hidden_layers": 1,
        }
        save_sepweight(member, weights, **changes)
        part = init_part(weights, "f", dtype=dtype)
        ids = torch.randint(0, 90, (LENGTH,), generator=torch.Generator().manual_seed(1))
        whole = part(ids)
        differing = [name for name, cuts in CUTS.items() if not torch.equal(run_in_pieces(part, ids, cuts), whole)]
        assert not differing, f"{heads} heads on {kv_heads}"


def run_in_pieces(part: DecoderPart, ids: Tensor, cuts: Sequence[int]) -> Tensor:
    cache = part.new_cache()
    return torch.cat([part(piece, cache) for piece in ids.split(list(cuts))])

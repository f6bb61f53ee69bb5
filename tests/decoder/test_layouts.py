"""Layouts that the kernels read: ours has the same bytes as the library's, or is not used."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from swarm.decoder import int4_layout, int8_layout
from swarm.decoder.int4_linear import PackedInt4Linear
from swarm.decoder.int8_layout import multiply, reorder
from swarm.sepweight.int4 import quantise_groups


def bytes_matrix(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def multiply_all(reordered: Tensor, shape: tuple[int, int]) -> Tensor:
    x = torch.randint(256, (5, shape[1]), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    return multiply(x, reordered, torch.ones(shape[0]), torch.zeros(shape[0], dtype=torch.int32))


@pytest.mark.parametrize(
    "shape", [(64, 64), (960, 576), (576, 1536), (2304, 2048), (50, 100), (64, 100), (96, 64)], ids=str
)
def test_a_second_int8_matrix_of_a_shape_gives_the_products_that_the_library_gives(shape: tuple[int, int]) -> None:
    first = reorder(bytes_matrix(shape, 1))
    second = bytes_matrix(shape, 2)
    second[3] = 127  # a row whose sum is the largest that there is
    expected = multiply_all(torch.ops.onednn.qlinear_prepack(second, None), shape)
    assert torch.equal(multiply_all(reorder(second), shape), expected)
    del first  # whose layout it has


def test_an_int8_layout_that_is_not_the_librarys_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (128, 192)
    right = int8_layout._reorder_like
    monkeypatch.setattr(int8_layout, "_reorder_like", lambda like, matrix: right(like, matrix.flip(0)))
    kept = [reorder(bytes_matrix(shape, seed)) for seed in (1, 2)]
    assert shape not in int8_layout._reordered
    expected = multiply_all(torch.ops.onednn.qlinear_prepack(bytes_matrix(shape, 2), None), shape)
    assert torch.equal(multiply_all(kept[1], shape), expected)


def test_no_matrix_is_kept_for_its_layout() -> None:
    shape = (128, 256)
    reordered = reorder(bytes_matrix(shape, 1))
    again = reorder(bytes_matrix(shape, 2))
    del reordered
    gc.collect()
    assert shape not in int8_layout._reordered
    assert again.shape == (256, 128)


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize(
    "shape", [(64, 128), (128, 512), (2304, 2048), (80, 96), (50, 101), (1, 64), (33, 200)], ids=str
)
def test_int4_pairs_go_where_torch_lays_them(
    shape: tuple[int, int], group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = quantise_groups(torch.randn(shape, generator=torch.Generator().manual_seed(0)), group)
    ours = PackedInt4Linear(tensors, group, None).packed
    monkeypatch.setattr(int4_layout, "_find_block", lambda: 0)
    assert torch.equal(ours, PackedInt4Linear(tensors, group, None).packed)


def test_a_layout_of_int4_is_known_for_this_processor() -> None:
    """The kernels have one for AVX-512 and one for AVX2; without either there are no kernels to lay out for."""
    expected = {"AVX512": 64, "AVX2": 32}.get(torch.backends.cpu.get_cpu_capability(), 0)
    assert int4_layout._find_block() == expected

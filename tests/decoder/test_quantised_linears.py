"""Products with quantised matrices: how near they are, and the same bits for a row in any company."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from swarm.decoder import int4_linear, int8_linear, unpacked
from swarm.decoder.device import Cpu
from swarm.decoder.int4 import Int4Scheme
from swarm.decoder.int4_linear import FinerInt4Linear, PackedInt4Linear, UnpackedInt4Linear
from swarm.decoder.int8 import INT8
from swarm.decoder.int8_linear import PackedInt8Linear, UnpackedInt8Linear
from swarm.decoder.kernels import is_worth_it, prefers_kernel
from swarm.decoder.linear import Linear
from swarm.decoder.scheme import Scheme
from swarm.decoder.schemes import scheme_named
from swarm.errors import RequestError
from swarm.sepweight.int4 import dequantise, pack_pairs, quantise_groups, unpack_pairs
from swarm.sepweight.manifest import TensorEntry

DTYPES = [torch.float32, torch.bfloat16]


def matrix_of(shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * shape[1] ** -0.5


def stood_for(scheme: Scheme, matrix: Tensor) -> Tensor:
    """The numbers that a packed matrix stands for."""
    return scheme.fitting(matrix.shape[1]).unpack(scheme.pack(matrix), matrix.shape[1])


def entries_of(tensors: dict[str, Tensor]) -> dict[str, TensorEntry]:
    return {name: TensorEntry(str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in tensors.items()}


def make(scheme: Scheme, matrix: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> Linear:
    return scheme.fitting(matrix.shape[1]).make(scheme.pack(matrix), bias, dtype, Cpu())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2048, 2048), (576, 1536), (960, 576), (50, 100)], ids=str)
@pytest.mark.parametrize("name", ["int8", "int4:32", "int4:64", "int4:128"])
def test_a_product_is_near_and_a_row_the_same_in_any_company(
    name: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    check_products(name, shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(320, 512), (300, 512), (50, 100)], ids=str)
@pytest.mark.parametrize("name", ["int8", "int4:64"])
def test_so_are_they_where_numbers_are_made_plain(
    name: str, shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (int4_linear, int8_linear):
        monkeypatch.setattr(room, "_has_kernels", lambda *shape: False)
    monkeypatch.setattr(int8_linear, "_has_widening", lambda columns: True)
    monkeypatch.setattr(unpacked, "TILE_NUMBERS", 1 << 16)  # several tiles
    check_products(name, shape, dtype)


def check_products(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """shape: [out, in]. 1 to 300 rows. Near what the stored numbers give: 5e-3, with quantised activations 2e-2."""
    scheme, matrix = scheme_named(name), matrix_of(shape)
    linear = make(scheme, matrix, dtype)
    x = torch.randn(300, shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    x[:: 1 + 20 * (shape[0] % 100 != 0), 7] *= 30  # rows that are wide: few of them, or all
    together = linear(x)
    assert (together.dtype, together.shape) == (dtype, (300, shape[0]))
    expected = x.float() @ stood_for(scheme, matrix).T
    assert (together - expected).norm() / expected.norm() < (2e-2 if name == "int8" else 5e-3)
    for piece in (1, 2, 3, 4, 7, 16, 33, 64, 100):
        assert torch.equal(torch.cat([linear(some) for some in x.split(piece)]), together), piece
    torch.set_num_threads(1)
    try:
        assert torch.equal(linear(x), together)
    finally:
        torch.set_num_threads(2)


def test_rows_with_a_few_large_numbers_keep_the_small_ones() -> None:
    """One byte would keep a hundredth of the root mean square; two keep a thousandth of it."""
    matrix = matrix_of((256, 2048))
    linear, stored = make(INT8, matrix, torch.float32), stood_for(INT8, matrix)
    x = torch.randn(40, 2048, generator=torch.Generator().manual_seed(1))
    errors = []
    for large in (1, 60):
        x[:, 3] *= large
        stored[:, 3] = 0  # what the large number gives is not what is asked for
        expected = x @ stored.T
        given = linear(x) - linear(torch.where(torch.arange(2048) == 3, x, 0.0))
        errors.append(float((given - expected).norm() / expected.norm()))
    assert errors[0] < 2e-2
    assert errors[1] < 2e-2


@pytest.mark.parametrize("name", ["int8", "int4:32"])
def test_a_bias_is_added(name: str) -> None:
    matrix, bias, x = matrix_of((48, 64)), torch.randn(48), torch.randn(5, 64)
    expected = make(scheme_named(name), matrix, torch.float32)(x) + bias
    assert torch.equal(make(scheme_named(name), matrix, torch.float32, bias)(x), expected)


def test_int8_numbers_are_off_by_half_a_step_at_most_and_a_row_of_zeros_stays_so() -> None:
    matrix = torch.randn(32, 64)
    matrix[5] = 0
    packed = INT8.pack(matrix)
    back = packed["int8"].float() * packed["scale"][:, None]
    assert ((back - matrix).abs() <= packed["scale"][:, None] * 0.5001).all()
    assert not back[5].any()
    x = torch.randn(3, 64)
    x[1] = 0
    y = make(INT8, matrix, torch.float32)(x)
    assert y.any(1).tolist() == [True, False, True]
    assert not y[:, 5].any()


@pytest.mark.parametrize("columns", [64, 128, 100, 4544])
def test_int4_numbers_are_off_by_little_more_than_half_a_step(columns: int) -> None:
    """More only where the least or the largest number of a group fell outside when its scale was rounded to bfloat16."""
    matrix = torch.randn(32, columns)
    matrix[5] = 0.25
    matrix[6] = 0
    scheme = Int4Scheme(64).fitting(columns)
    packed = scheme.pack(matrix)
    back = dequantise(packed, scheme.group, columns)
    step = packed["scale"].float().repeat_interleave(scheme.group, 1)[:, :columns]
    assert ((back - matrix).abs() <= step * 0.55 + 1e-9).all()
    assert torch.equal(back[5:7], matrix[5:7])


def test_groups_are_the_largest_that_divide_a_row() -> None:
    fitting = {
        (group, columns): Int4Scheme(group).fitting(columns).group
        for group in (32, 128)
        for columns in (4544, 8192, 100)
    }
    assert fitting == {(32, 4544): 32, (128, 4544): 64, (32, 8192): 32, (128, 8192): 128, (32, 100): 32, (128, 100): 32}


def test_two_numbers_share_a_byte() -> None:
    numbers = torch.randint(0, 16, (3, 10), dtype=torch.uint8)
    assert torch.equal(unpack_pairs(pack_pairs(numbers)), numbers)


def test_columns_in_an_order_and_points_of_zero() -> None:
    """(q - zero) * scale, on columns that the order tells: what other programs' checkpoints have."""
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randint(0, 16, (48, 128), dtype=torch.uint8, generator=generator)
    scale = torch.rand(48, 2, generator=generator).half() * 0.1
    zero = torch.randint(0, 16, (48, 2), dtype=torch.uint8, generator=generator)
    order = torch.randperm(128, generator=generator)
    tensors = {"int4": pack_pairs(numbers), "scale": scale, "zero": zero, "order": order}
    assert Int4Scheme(64).recognise(entries_of(tensors), (48, 128)) == Int4Scheme(64, is_ordered=True, is_finer=True)
    wide = scale.float().repeat_interleave(64, 1)
    plain = torch.empty(48, 128)
    plain[:, order] = (numbers.float() - zero.repeat_interleave(64, 1)) * wide
    assert torch.allclose(Int4Scheme(64).unpack(tensors, 128), plain)
    x = torch.randn(7, 128, generator=generator)
    expected = x @ plain.T
    finer = FinerInt4Linear(tensors, 64, None, has_finer_scales=True)
    for linear, most in (
        (PackedInt4Linear(tensors, 64, None), 5e-3),
        (finer, 3e-3),
        (UnpackedInt4Linear(tensors, 64, None, Cpu()), 1e-6),
    ):
        assert (linear(x) - expected).norm() / expected.norm() < most


@pytest.mark.parametrize("name", ["int8", "int4:32"])
def test_what_is_not_finite_stays_so(name: str) -> None:
    linear = make(scheme_named(name), torch.randn(32, 64), torch.float32)
    x = torch.randn(3, 64)
    x[1, 7] = float("nan")
    x[2, 9] = float("inf")
    assert linear(x).isfinite().all(1).tolist() == [True, False, False]


def test_numbers_made_plain_give_the_same_product() -> None:
    matrix, x = torch.randn(48, 100), torch.randn(5, 100)
    packed = INT8.pack(matrix)
    near = x @ stood_for(INT8, matrix).T
    assert torch.allclose(UnpackedInt8Linear(packed["int8"], packed["scale"], None, Cpu())(x), near, atol=1e-4)
    near = x @ stood_for(Int4Scheme(32), matrix).T
    assert torch.allclose(UnpackedInt4Linear(quantise_groups(matrix, 32), 32, None, Cpu())(x), near, atol=1e-4)


def test_this_machine_has_kernels_and_what_stands_in_for_some_is_not_used() -> None:
    x = torch.randn(4, 2048)
    packed = make(INT8, matrix_of((1024, 2048)), torch.float32)
    assert isinstance(packed, PackedInt8Linear | UnpackedInt8Linear)
    assert not is_worth_it(lambda: [packed(x) for _ in range(200)], lambda: packed(x))
    assert is_worth_it(lambda: packed(x), lambda: [packed(x) for _ in range(20)])
    assert [prefers_kernel(seconds, 1.0) for seconds in (2.9, 3.1)] == [True, False]


def test_a_form_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        RequestError, match='"int3" is no form of matrices; choose plain, int8, int4:32, int4:64, int4:128'
    ):
        scheme_named("int3")
    with pytest.raises(RequestError, match='"int4:48" is no form'):
        scheme_named("int4:48")


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_kernels_whose_sums_do_not_hold_the_largest_bytes_are_not_used(instructions: str) -> None:
    """Without VNNI oneDNN adds two products in 16 bits."""
    code = (
        "import torch\n"
        "from swarm.decoder.device import Cpu\n"
        "from swarm.decoder.int8 import INT8\n"
        "for dtype in (torch.float32, torch.bfloat16):\n"
        "    for rows in (64, 50):\n"
        "        print(type(INT8.make(INT8.pack(torch.randn(rows, 64)), None, dtype, Cpu())).__name__)\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    unpacked = "UnpackedInt8Linear"
    assert done.stdout.split() == [unpacked, unpacked, "WideningInt8Linear", unpacked]

"""Matrices of float16 numbers: right, exact, the same bits in any company, and whether they are packed or come from disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swarm.decoder.builder import Streaming
from swarm.decoder.device import Cpu
from swarm.decoder.half import LEAST_NUMBERS, may_be_half, packing_bytes
from swarm.decoder.half_linear import PackedLinear, TiledLinear, _has_half_kernels, can_move
from swarm.decoder.linear import BesideLinear, PlainLinear
from swarm.decoder.loading import iterate_loading
from swarm.decoder.part import DecoderPart
from swarm.decoder.plain import PLAIN
from swarm.decoder.processor import has_half_kernels
from swarm.families import family_named
from swarm.loading import init_part
from tests.decoder.pretended_gpu import PretendedGpu
from tests.llama.members import save_sepweight

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="this torch is built without FBGEMM"
)
HALVES = [torch.bfloat16, torch.float16]
SHAPES = [
    (960, 576),
    (576, 1536),
    (2048, 2048),
    (300, 1000),
    (1100, 1100),
    (512, 4352),
]
ROWS = 126  # its kernels take 120 rows, and begin anew
SIZES = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1024,
    "vocab_size": 1024,
    "num_hidden_layers": 4,
}
IDS = torch.randint(2, 1000, (24,), generator=torch.Generator().manual_seed(3))
CUTS = [[24], [1] * 24, [7, 1, 2, 14], [23, 1]]


def draw(shape: tuple[int, int], dtype: torch.dtype, scale: float = 0.02) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * scale).to(dtype)


def error_of(y: Tensor, exact: Tensor) -> float:
    return float((y - exact).norm() / exact.norm())


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 0.02, 1e6])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_product_is_as_good_as_the_plain_one(pieces: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever size its numbers have: float16 ends at 65,504 and 6e-8."""
    monkeypatch.setattr("swarm.decoder.half_linear.PIECE_NUMBERS", 960 * 576 // pieces)
    weight, x = draw((960, 576), torch.bfloat16, scale), draw((17, 576), torch.bfloat16, 1.0)
    bias = draw((960, 1), torch.bfloat16, scale)[:, 0]
    exact = x.double() @ weight.double().T + bias.double()
    linear = PackedLinear(weight, bias)
    assert len(linear.tiles()) == pieces
    for one in (linear, TiledLinear(weight, bias)):
        assert error_of(one(x), exact) < 1.01 * error_of(PlainLinear(weight, bias)(x), exact) < 0.01


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_no_bit_of_a_weight_is_lost(dtype: torch.dtype) -> None:
    """Of numbers that differ by a factor of up to 2^30."""
    weight = draw((960, 576), torch.float32)
    weight.mul_(torch.exp2(-(torch.arange(960) % 30))[:, None])
    weight = weight.to(dtype)
    weight[weight.abs() < weight.abs().max() * 2.0**-31] = 0.0
    assert torch.equal(PackedLinear(weight)(torch.eye(576, dtype=dtype)), weight.T)
    assert torch.equal(TiledLinear(weight)(torch.eye(576, dtype=dtype)), weight.T)


def test_sums_are_those_that_a_product_rounds() -> None:
    weight, x = draw((960, 576), torch.bfloat16), draw((5, 576), torch.bfloat16, 1.0)
    exact = x.double() @ weight.double().T
    for linear in (
        PackedLinear(weight),
        TiledLinear(weight),
        BesideLinear([PackedLinear(weight[:640]), PackedLinear(weight[640:])]),
    ):
        sums = linear.sums(x)
        assert sums.dtype is torch.float32
        assert error_of(sums, exact) < 1e-6
        assert torch.equal(linear(x), sums.bfloat16())
    assert PlainLinear(weight).sums(x).dtype is torch.bfloat16


def test_a_matrix_of_zeros_is_one() -> None:
    weight, x = torch.zeros(32, 512, dtype=torch.bfloat16), torch.ones(1, 512, dtype=torch.bfloat16)
    assert not PackedLinear(weight)(x).any()
    assert not TiledLinear(weight)(x).any()


def need_half_kernels() -> None:
    if not has_half_kernels():
        pytest.skip("FBGEMM has other kernels where there is AVX-512, and they are not used there")


def test_this_machine_uses_what_it_has() -> None:
    need_half_kernels()
    assert all(_has_half_kernels(dtype) for dtype in HALVES)


def test_kernels_that_add_in_another_order_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    need_half_kernels()
    monkeypatch.setattr(
        "swarm.decoder.half_linear._multiply_plain",
        lambda block, x, rows: (x[:rows].double() @ block.double().T).float(),
    )
    assert not _has_half_kernels.__wrapped__(torch.bfloat16)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_the_same_bits_in_any_company(shape: tuple[int, int], threads: int) -> None:
    """Any number of rows that a batch may have, from the first one on and up to the last one; wherever the matrix lies."""
    need_half_kernels()
    weight, x = draw(shape, torch.bfloat16), draw((ROWS, shape[1]), torch.bfloat16, 1.0).float()  # no sum is rounded
    packed, tiled = PackedLinear(weight, weight[:, 0]), TiledLinear(weight, weight[:, 0])
    whole = packed(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in range(1, ROWS):
            assert torch.equal(packed(x[:rows]), whole[:rows]), rows
            assert torch.equal(packed(x[-rows:]), whole[-rows:]), rows
            assert torch.equal(tiled(x[:rows]), whole[:rows]), rows
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_numbers_that_are_lost_are_lost_wherever_the_matrix_lies(dtype: torch.dtype) -> None:
    need_half_kernels()
    weight = draw((960, 576), torch.float32)
    weight.mul_(torch.exp2(-(torch.arange(960) % 40))[:, None])
    x = draw((5, 576), torch.float32, 1.0)
    assert torch.equal(PackedLinear(weight.to(dtype))(x), TiledLinear(weight.to(dtype))(x))


MEASURE = """
import psutil, torch
from swarm.decoder.device import Cpu
from swarm.decoder.half import packed_bytes
from swarm.decoder.half_linear import PackedLinear

made = []
for shape in {shapes}:
    weight = torch.randn(shape).bfloat16()
    made.append(PackedLinear(weight))  # what making takes has been taken once
    Cpu().trim()
    before, count = psutil.Process().memory_info().rss, 100_000_000 // packed_bytes(shape)
    made += [PackedLinear(weight) for _ in range(count)]
    Cpu().trim()
    print((psutil.Process().memory_info().rss - before) / count / packed_bytes(shape))
"""


def test_what_one_takes_is_what_it_is_reckoned_to() -> None:
    """In a process of its own: whatever another test has freed may be taken first."""
    need_half_kernels()
    told = subprocess.run(
        [sys.executable, "-c", MEASURE.format(shapes=SHAPES)], capture_output=True, text=True, check=True, timeout=100
    )
    assert [float(line) for line in told.stdout.split()] == pytest.approx([1.0] * len(SHAPES), rel=0.05)


def test_which_matrices_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.decoder.half.has_half_kernels", lambda: True)
    assert may_be_half((2048, 2048), 2, Cpu())
    assert may_be_half((4544, 4544), 2, Cpu())
    assert not may_be_half((2048, 2048), 4, Cpu())
    assert may_be_half((49152, 576), 2, Cpu())  # two rows as one, or most of the second block would be empty
    assert not may_be_half((49152, 520), 2, Cpu())  # a third would be even then
    assert not may_be_half((LEAST_NUMBERS // 512 - 1, 512), 2, Cpu())
    assert not may_be_half((2048, 2048), 2, PretendedGpu())
    costs = PLAIN.costs((2048, 2048), 2, 2, Cpu())
    assert (costs.resident, costs.moves) == (2048 * 2048 * 2, False)
    assert costs.making == 2048 * 2048 * 2 + packing_bytes((2048, 2048)) == 2048 * 2048 * 6
    monkeypatch.setattr("swarm.decoder.half.has_half_kernels", lambda: False)
    assert PLAIN.costs((4096, 4096), 2, 2, Cpu()).moves


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wide enough, on a machine with AVX2 and no AVX-512, whatever this one has."""
    monkeypatch.setattr("swarm.decoder.half.has_half_kernels", lambda: True)
    monkeypatch.setattr("swarm.decoder.half.LEAST_NUMBERS", 512 * 512)
    monkeypatch.setattr("swarm.decoder.half_linear._has_half_kernels", lambda dtype: True)
    for module in ("linear", "half_linear"):
        monkeypatch.setattr(f"swarm.decoder.{module}.has_kernels", lambda dtype: dtype is torch.float32)
    save_sepweight("qwen2", tmp_path / "weights", dtype="bfloat16", **SIZES)
    return tmp_path / "weights"


def halves_of(part: DecoderPart) -> int:
    return sum(isinstance(module, PackedLinear) for module in part.modules())


def play(part: DecoderPart, cut: Sequence[int] = (12, 1, 1, 4, 6)) -> Tensor:
    cache = part.new_cache()
    return torch.cat([part(piece, cache) for piece in IDS.split(list(cut))])


def test_a_model_says_what_its_plain_matrices_say(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = init_part(weights, "f")
    assert halves_of(part) == 4 * 4 + 1
    found = play(part)
    if has_half_kernels():
        assert all(torch.equal(play(part, cut), found) for cut in CUTS)
    monkeypatch.setattr("swarm.decoder.half.has_half_kernels", lambda: False)
    plain = init_part(weights, "f")
    assert halves_of(plain) == 0
    assert error_of(found, play(plain)) < 0.02


def test_layers_that_come_from_disk_say_what_kept_ones_say(weights: Path) -> None:
    need_half_kernels()
    kept, some, others, all_of_them = (
        init_part(weights, "f", streaming=Streaming(numbers, 1) if numbers else None)
        for numbers in ([], [1, 2], [0, 3], [0, 1, 2, 3])
    )
    assert [halves_of(part) for part in (kept, some, others, all_of_them)] == [17, 9, 9, 1]
    found = play(kept)
    for part in (some, others, all_of_them):
        assert all(torch.equal(play(part, cut), found) for cut in CUTS)


def test_what_is_kept_becomes_no_buffer_and_is_used_meanwhile(weights: Path) -> None:
    """And what was read is kept as any other layer once there is room."""
    family, part = family_named("llama", weights), init_part(weights, "f")
    need_half_kernels()
    kept = play(part)
    for numbers in ([1, 2, 3], [2], [], [0, 1]):
        streaming = Streaming(numbers, 1) if numbers else None
        steps = iterate_loading(family, weights, "f", Cpu(), old=part, streaming=streaming)
        before, expected = part, play(part)
        while True:
            try:
                next(steps)
                assert torch.equal(play(before), expected)
            except StopIteration as stop:
                part = stop.value()
                break
        assert halves_of(part) == 4 * (4 - len(numbers)) + 1
        assert all(not can_move(layer) for layer in part.shelf.resident.values())
        assert torch.equal(play(part), kept)

"""Products with 16-bit matrices where a processor has no instructions for them: by FBGEMM's kernels for float16.

Torch's general code takes five times as long for sixteen rows. A bfloat16 number times a power of two is a float16 number,
unless it is less than 2^-31 of the matrix' largest: what is lost of such a one is less than what the sum of a few products
rounds away. Sums are made in float32, as everywhere.

What is packed for FBGEMM cannot be looked into, nor made of bytes that lie somewhere: it stays where it is. Layers that come
from disk are multiplied by oneDNN, made float32 a tile at a time, and give the same bits: over 1,024 columns both add one
product after another, each step rounded once, and such sums are added up here.

Whole blocks of 512 columns are packed. Where much would be padding, two rows of the matrix are packed as one, and a row of
activations becomes two, each with zeros where the other has numbers.

A row has the same bits in any company: FBGEMM's blocks of three to six rows add in that order, those of one and two in
another, and none of those is left of a multiple of three (1 to 1,100 rows, one core and two; up to 32 threads on two).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor, nn

from swarm.decoder.device import Device
from swarm.decoder.half import PIECE_NUMBERS, PIECES_AT_ONCE, ROW_BLOCK, may_be_half, rows_beside, summed_columns
from swarm.decoder.kernels import TRIED_COLUMNS, TRIED_ROWS
from swarm.decoder.linear import Linear, PlainLinear, has_kernels

ROWS = 3  # that a product has a multiple of
TILE_ROWS = 1024  # of a block are made float32 at a time
EVEN_ROWS = 64  # that a matrix has a multiple of for oneDNN
LARGEST_EXPONENT = 15  # float16 ends at 65,504
MOST_EXPONENT = 100  # float32 ends at 2^128

Product = Callable[[Tensor, int], Tensor]  # what is ready for a block, and of how many rows → [rows, out], float32


class HalfLinear(Linear):
    """A matrix of float16 numbers times a power of two. Its products with blocks of columns are added up."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: [out, in]."""
        super().__init__()
        self.rows, columns = weight.shape
        self.widths = summed_columns(columns)
        low, high = torch.aminmax(weight)
        exponent = min(MOST_EXPONENT, LARGEST_EXPONENT - math.frexp(max(-low.item(), high.item()))[1])
        self.factor = 2.0**exponent
        self.shrink = torch.tensor([1 / self.factor])  # for activations: the matrix is multiplied with the inverse
        self.bias = None if bias is None else bias.float()

    def halves(self, weight: Tensor) -> Tensor:
        """Some of the matrix as float16 numbers."""
        return (weight * self.factor).half()

    def ready(self, x: Tensor) -> Tensor:
        """Activations of a block, [rows, columns], as its products take them: float32, multiplied with `shrink`."""
        return _whole(x * self.shrink)

    def tiles(self) -> Iterable[tuple[slice, Sequence[Product]]]:
        """Rows of the matrix behind rows, with a product for each block of columns."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x, x.dtype)

    def sums(self, x: Tensor) -> Tensor:
        return self._product(x, torch.float32)

    def _product(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        rows = len(x)
        several = x.split(self.widths, 1) if len(self.widths) > 1 else [x]
        blocks = [self.ready(block) for block in several]
        sums: list[Tensor] = []
        for some, products in self.tiles():
            first, *others = (multiply(block, rows) for multiply, block in zip(products, blocks, strict=True))
            for other in others:
                first += other
            if self.bias is not None:
                first += self.bias[some]
            sums.append(first.to(dtype))
        return sums[0] if len(sums) == 1 else torch.cat(sums, 1)


class PackedLinear(HalfLinear):
    """As FBGEMM reads it. Cannot be moved."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight: not kept."""
        super().__init__(weight, bias)
        beside = rows_beside(weight.shape[1])
        apart = torch.eye(beside) * self.shrink
        self.apart = apart[None, :, :, None]
        self.apart_alone = apart.repeat(ROWS, 1)[:ROWS, :, None]
        whole = ROW_BLOCK * beside
        step = max(1, PIECE_NUMBERS // max(self.widths) // whole) * whole
        tiles = [(some, weight[some].split(self.widths, 1)) for some in _slices(self.rows, step)]
        pieces = [block for _, blocks in tiles for block in blocks]
        packed: list[Any] = []
        with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:  # a core takes 15 ns a number
            for few in _slices(len(pieces), PIECES_AT_ONCE):
                # Not made there: a thread keeps what it frees.
                wide = [self.halves(_join_rows(block, beside)).float() for block in pieces[few]]
                packed += pool.map(_pack, wide)
                del wide  # before the next ones are made
        made = (
            functools.partial(_multiply_packed, one, len(block), beside)
            for one, block in zip(packed, pieces, strict=True)
        )
        self._tiles = [(some, [next(made) for _ in blocks]) for some, blocks in tiles]

    def ready(self, x: Tensor) -> Tensor:
        """With a row for each of those that lie beside one another: zeros but for its columns, which add nothing."""
        if len(x) == 1:  # of all steps the most frequent: as few operations as can be
            return (x * self.apart_alone).view(ROWS, -1)
        return _whole((x[:, None, None] * self.apart).flatten(2).flatten(0, 1))

    def tiles(self) -> Sequence[tuple[slice, Sequence[Product]]]:
        return self._tiles


class TiledLinear(HalfLinear):
    """Numbers that may lie anywhere. weight: [out, in], float16."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self.weight = nn.Parameter(self.halves(weight), requires_grad=False)

    def tiles(self) -> Iterable[tuple[slice, Sequence[Product]]]:
        for some in _slices(self.rows, TILE_ROWS):
            blocks = self.weight[some].split(self.widths, 1)
            yield some, [functools.partial(_multiply_plain, block) for block in blocks]


def as_half(linear: Linear, device: Device, *, moves: bool) -> Linear:
    """A linear, or what takes its place on this processor. moves: its numbers will lie elsewhere."""
    if not isinstance(linear, PlainLinear):
        return linear
    weight = linear.weight.data
    rows, columns = weight.shape
    if not may_be_half((rows, columns), weight.itemsize, device) or has_kernels(weight.dtype):
        return linear
    if not _has_half_kernels(weight.dtype):
        return linear
    return (TiledLinear if moves else PackedLinear)(weight, linear.bias)


def can_move(module: nn.Module) -> bool:
    """Whether a module's numbers may lie elsewhere."""
    return not any(isinstance(one, PackedLinear) for one in module.modules())


def _whole(x: Tensor) -> Tensor:
    """Rows that are a multiple of ROWS, the first ones given."""
    rows = x.shape[0]
    if rows == 1:
        return x.expand(ROWS, -1)
    lacking = -rows % ROWS
    return torch.cat([x, x[:lacking]]) if lacking else x


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]


def _join_rows(block: Tensor, beside: int) -> Tensor:
    """A block as it is packed. beside: rows that become one, each of another part of the block."""
    padded = _pad_rows(block, beside * ROW_BLOCK)
    return padded if beside == 1 else torch.cat(padded.chunk(beside), 1)


def _pack(block: Tensor) -> Any:
    """block: float32."""
    return torch.ops.quantized.linear_prepack_fp16(block, None)


def _multiply_packed(packed: Any, count: int, beside: int, x: Tensor, rows: int) -> Tensor:
    sums = cast(Tensor, torch.ops.quantized.linear_dynamic_fp16(x, packed))
    return sums.as_strided((rows, count), (beside * sums.shape[1], 1))


def _multiply_plain(block: Tensor, x: Tensor, rows: int) -> Tensor:
    wide = _pad_rows(block.float(), EVEN_ROWS)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, wide, None, "none", [], ""))[:rows, : len(block)]


def _pad_rows(matrix: Tensor, multiple: int) -> Tensor:
    """What is left of a multiple is added up in another order, by either library."""
    lacking = -len(matrix) % multiple
    return nn.functional.pad(matrix, (0, 0, 0, lacking)) if lacking else matrix


@functools.cache
def _has_half_kernels(dtype: torch.dtype) -> bool:
    """Whether torch has FBGEMM's kernels, and they are right on this machine, and add as oneDNN's do.

    With these instructions they are fast; a try would tell other things of a busy machine than of others of its kind.
    """
    weight = torch.randn((TRIED_ROWS, TRIED_COLUMNS), generator=torch.Generator().manual_seed(0)).to(dtype)
    x, plain = weight[:ROWS] / TRIED_COLUMNS, PlainLinear(weight)
    try:
        packed, tiled = PackedLinear(weight), TiledLinear(weight)
        sums = packed(x.float())
        return torch.allclose(sums, plain(x).float(), rtol=0.02, atol=0.02) and torch.equal(sums, tiled(x.float()))
    except (AttributeError, RuntimeError):
        return False

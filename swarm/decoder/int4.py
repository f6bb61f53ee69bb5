"""Matrices of whole numbers from 0 to 15, with a scale for each few columns of a row (sepweight/int4.py). Imports torch only
where it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from swarm.decoder.device import Device
from swarm.decoder.scheme import MatrixCosts, tile_bytes
from swarm.errors import RequestError
from swarm.sepweight.manifest import TensorEntry
from swarm.sepweight.scheme import INT4_GROUPS, pack_by_rows

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swarm.decoder.linear import Linear

GROUPS = INT4_GROUPS[:-1]  # columns of one scale, to choose from
ROWS_BLOCK = 16  # rows of a matrix that the CPU's kernels take together
PAIR_BYTES = 4  # of a group on the device: scale and middle in bfloat16
FLOAT32_BYTES = 4
ORDER_BYTES = 8  # of a column that has its place in an order
BLOCKS_ROWS = 1024  # whole blocks, of whatever size a processor's kernels have
# Of a matrix that are 32 bits wide at a time while it is laid out for the kernels, and some bytes more.
WIDE_NUMBERS = 2 << 20
WIDE_BYTES = 9


@dataclass(frozen=True, slots=True)
class Int4Scheme:
    """Four bits a number, a scale for each `group` columns: at 64, 0.28 of bfloat16's bytes.

    is_ordered: columns are stored in another order than the model's, which comes with them. is_finer: scales or what they go
    with are no bfloat16, which the kernels take.
    """

    group: int
    is_ordered: bool = False
    is_finer: bool = False

    def __post_init__(self) -> None:
        if self.group not in INT4_GROUPS:
            raise RequestError(f"int4 in groups of {self.group} is not to be had; choose {_spell(GROUPS)}")

    @property
    def name(self) -> str:
        return f"int4:{self.group}"

    @property
    def may_be_joined(self) -> bool:
        """Columns in an order are each matrix' own."""
        return not self.is_ordered

    def fitting(self, columns: int) -> Int4Scheme:
        """With the largest groups up to these that divide a matrix' columns; with groups of 32, where none does."""
        fits = [group for group in INT4_GROUPS if group <= self.group and columns % group == 0]
        return replace(self, group=max(fits, default=min(INT4_GROUPS)))

    def doubt(self, dtype: str) -> str | None:
        match dtype:
            case "bfloat16":
                return None
            case "float32":
                return "int4 matrices multiply in bfloat16: in float32 each takes two or three products"
            case _:
                return f"int4 matrices multiply in bfloat16: what is computed in {dtype} is rounded for them"

    def pack(self, matrix: Tensor) -> Mapping[str, Tensor]:
        from swarm.sepweight.int4 import quantise_groups

        group = self.fitting(matrix.shape[1]).group
        return pack_by_rows(matrix, lambda rows: quantise_groups(rows, group))

    def recognise(self, entries: Mapping[str, TensorEntry], shape: tuple[int, int]) -> Int4Scheme | None:
        """Groups follow from how many scales a row has."""
        rows, columns = shape
        with_scales = set(entries) - {"order", "int4", "scale"}
        if not {"int4", "scale"} <= set(entries) or with_scales not in ({"middle"}, {"zero"}, {"minimum"}):
            return None
        shapes = {name: one.shape for name, one in entries.items()}
        groups = shapes["scale"][-1]
        fits = [group for group in INT4_GROUPS if -(-columns // group) == groups]
        expected = {"int4": (rows, -(-columns // 2)), "order": (columns,)}
        if not fits or any(shape != expected.get(name, (rows, groups)) for name, shape in shapes.items()):
            return None
        is_finer = "middle" not in entries or entries["scale"].dtype != "bfloat16"
        return Int4Scheme(fits[0], "order" in entries, is_finer)

    def unpack(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        from swarm.sepweight.int4 import dequantise

        plain = dequantise(tensors, self.group, columns)
        return plain if "order" not in tensors else plain[:, tensors["order"].argsort()]

    def costs(self, shape: tuple[int, int], stored: int, item: int, device: Device) -> MatrixCosts:
        rows, columns = shape
        group = self.fitting(columns).group
        groups = -(-columns // group)
        middle = 2 * self.is_finer  # in float32, where it follows from what is stored
        as_stored = rows * (-(-columns // 2) + groups * (PAIR_BYTES + middle))
        order = columns * ORDER_BYTES * self.is_ordered
        if not device.is_host:
            return MatrixCosts(as_stored + order, tile_bytes(shape, item))
        padded = -(-rows // ROWS_BLOCK) * ROWS_BLOCK
        finer = PAIR_BYTES * (self.is_finer and item == FLOAT32_BYTES)
        laid_out = padded * groups * (group // 2 + PAIR_BYTES + finer)
        wide = min(rows, rows_at_a_time(columns)) * columns * WIDE_BYTES
        return MatrixCosts(laid_out + order, as_stored + wide)

    def make(self, tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype, device: Device) -> Linear:
        from swarm.decoder.int4_linear import make_linear

        return make_linear(tensors, self.group, bias, dtype, device, is_finer=self.is_finer)


def rows_at_a_time(columns: int) -> int:
    """Of a matrix that is laid out for the kernels."""
    return max(BLOCKS_ROWS, WIDE_NUMBERS // columns // BLOCKS_ROWS * BLOCKS_ROWS)


def _spell(groups: tuple[int, ...]) -> str:
    return ", ".join(f"int4:{group}" for group in groups)

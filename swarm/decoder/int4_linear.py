"""Products with int4 matrices: on a CPU by torch's kernels for them, elsewhere with the numbers made plain again.

The CPU's kernels read each row's numbers as they are and give a row of activations the same bits in any company (1 to 300
rows, one core to four), so many rows take them, too: a product made of plain numbers has other bits, and a replay, which
feeds at once what was said token by token, would differ.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from swarm.decoder.device import LEAST_ROWS, Device
from swarm.decoder.int4 import ROWS_BLOCK, UNPACKED_NUMBERS
from swarm.decoder.kernels import TRIED_COLUMNS, TRIED_ROWS, is_worth_it
from swarm.decoder.linear import Linear
from swarm.decoder.unpacked import UnpackedLinear
from swarm.sepweight.int4 import dequantise, middles, quantise_groups, unpack_pairs


def make_linear(
    tensors: Mapping[str, Tensor], group: int, bias: Tensor | None, dtype: torch.dtype, device: Device
) -> Linear:
    """What multiplies with a matrix on a device. tensors: as stored."""
    if not device.is_host:
        names = list(tensors)
        placed = dict(zip(names, device.place([tensors[name] for name in names]), strict=True))
        return UnpackedInt4Linear(placed, group, bias)
    packed = PackedInt4Linear(tensors, group, bias, dtype)
    return (
        packed
        if _is_packed_fast(group, max(packed.padded_columns, TRIED_COLUMNS))
        else UnpackedInt4Linear(tensors, group, bias)
    )


class PackedInt4Linear(Linear):
    """A matrix in the order in which the CPU's kernels for four bits read it; they compute in bfloat16."""

    def __init__(
        self, tensors: Mapping[str, Tensor], group: int, bias: Tensor | None, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        super().__init__()
        self.group, self.bias = group, bias
        self.order = tensors.get("order")
        pairs, scales = tensors["int4"], tensors["scale"]
        self._rows = len(pairs)
        self.padded_columns = scales.shape[1] * group
        self.packed = torch.cat([self._lay_out(some) for some in pairs.split(self._step())])
        pad = (0, 0, 0, -self._rows % ROWS_BLOCK)
        both = torch.stack(
            [nn.functional.pad(one, pad) for one in (scales.bfloat16(), middles(tensors).bfloat16())], -1
        )
        self.scales = both.transpose(0, 1).contiguous()

    def _step(self) -> int:
        """Rows that are laid out at a time: whole blocks, of whatever size this processor's kernels have."""
        return max(1024, UNPACKED_NUMBERS // self.padded_columns // 1024 * 1024)

    def _lay_out(self, pairs: Tensor) -> Tensor:
        numbers = unpack_pairs(pairs).to(torch.int32)
        missing = (0, self.padded_columns - numbers.shape[1], 0, -len(pairs) % ROWS_BLOCK)
        padded = nn.functional.pad(numbers, missing) if any(missing) else numbers
        return cast(Tensor, torch.ops.aten._convert_weight_to_int4pack_for_cpu(padded, 1))

    def forward(self, x: Tensor) -> Tensor:
        given = x if self.order is None else x[:, self.order]
        if given.dtype is not torch.bfloat16:
            given = given.bfloat16()
        if given.shape[1] != self.padded_columns:
            given = nn.functional.pad(given, (0, self.padded_columns - given.shape[1]))
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(given.contiguous(), self.packed, self.group, self.scales)
        if y.shape[1] != self._rows:
            y = y[:, : self._rows]
        y = cast(Tensor, y).to(x.dtype)
        return y if self.bias is None else y + self.bias


class UnpackedInt4Linear(UnpackedLinear):
    """A matrix as it is stored. tensors: on the device."""

    def __init__(self, tensors: Mapping[str, Tensor], group: int, bias: Tensor | None) -> None:
        super().__init__()
        self.group, self.bias = group, bias
        self.order = tensors.get("order")
        self.pairs, self.scales, self.middles = tensors["int4"], tensors["scale"], middles(tensors)
        self.rows = len(self.pairs)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.order is None else x[:, self.order])

    def plain(self, first: int, stop: int, x: Tensor) -> Tensor:
        some = {"int4": self.pairs[first:stop], "scale": self.scales[first:stop], "middle": self.middles[first:stop]}
        return dequantise(some, self.group, x.shape[1]).to(x.dtype)


@functools.cache
def _is_packed_fast(group: int, columns: int) -> bool:
    """Whether the kernels for four bits are such on this machine, and no code that stands in for them."""
    tensors = quantise_groups(torch.ones(TRIED_ROWS, columns), group)
    x = torch.ones(LEAST_ROWS, columns, dtype=torch.bfloat16)
    packed, unpacked = PackedInt4Linear(tensors, group, None), UnpackedInt4Linear(tensors, group, None)
    return is_worth_it(lambda: packed(x), lambda: unpacked(x))

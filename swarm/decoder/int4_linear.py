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

from swarm.decoder.device import LEAST_ROWS, Cpu, Device
from swarm.decoder.int4 import ROWS_BLOCK
from swarm.decoder.int4_layout import lay_out
from swarm.decoder.kernels import TRIED_COLUMNS, TRIED_ROWS, is_worth_it
from swarm.decoder.linear import Linear
from swarm.decoder.unpacked import UnpackedLinear
from swarm.sepweight.int4 import dequantise, middles, quantise_groups


def make_linear(
    tensors: Mapping[str, Tensor],
    group: int,
    bias: Tensor | None,
    dtype: torch.dtype,
    device: Device,
    *,
    is_finer: bool,
) -> Linear:
    """What multiplies with a matrix on a device. tensors: as stored. is_finer: what goes with them is no bfloat16."""
    if not device.is_host:
        names = list(tensors)
        placed = dict(zip(names, device.place([tensors[name] for name in names]), strict=True))
        return UnpackedInt4Linear(placed, group, bias, device)
    if not _has_kernels(group, max(tensors["scale"].shape[1] * group, TRIED_COLUMNS)):
        return UnpackedInt4Linear(tensors, group, bias, device)
    if dtype is torch.float32:
        return FinerInt4Linear(tensors, group, bias, has_finer_scales=is_finer)
    return PackedInt4Linear(tensors, group, bias)


class PackedInt4Linear(Linear):
    """A matrix in the order in which the CPU's kernels for four bits read it; they compute in bfloat16."""

    def __init__(self, tensors: Mapping[str, Tensor], group: int, bias: Tensor | None) -> None:
        """tensors: as stored."""
        super().__init__()
        self.group, self.bias = group, bias
        self.order = tensors.get("order")
        pairs, scales = tensors["int4"], tensors["scale"]
        self._rows = len(pairs)
        self.padded_columns = scales.shape[1] * group
        self.packed = lay_out(pairs, self.padded_columns)
        self.scales = self._pair_up(scales, middles(tensors))

    def _pair_up(self, scales: Tensor, middle: Tensor) -> Tensor:
        """Two of [rows, groups] → [groups, padded rows, 2] bfloat16."""
        pad = (0, 0, 0, -self._rows % ROWS_BLOCK)
        both = [nn.functional.pad(one.bfloat16(), pad) for one in (scales, middle)]
        return torch.stack(both, -1).transpose(0, 1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        given = x if self.order is None else x[:, self.order]
        if given.shape[1] != self.padded_columns:
            given = nn.functional.pad(given, (0, self.padded_columns - given.shape[1]))
        y = self.multiply(given.contiguous()).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def multiply(self, x: Tensor) -> Tensor:
        """x: [tokens, padded columns], in the order of the stored ones."""
        return self.product(x.bfloat16(), self.scales)

    def product(self, x: Tensor, scales: Tensor) -> Tensor:
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, self.group, scales)
        return cast(Tensor, y[:, : self._rows])


class FinerInt4Linear(PackedInt4Linear):
    """The same for float32: what bfloat16 leaves of activations and scales is multiplied, too, and added."""

    def __init__(
        self, tensors: Mapping[str, Tensor], group: int, bias: Tensor | None, *, has_finer_scales: bool
    ) -> None:
        super().__init__(tensors, group, bias)
        self.finer_scales = None
        if has_finer_scales:
            scales, middle = (one.float() - one.bfloat16().float() for one in (tensors["scale"], middles(tensors)))
            self.finer_scales = self._pair_up(scales, middle)

    def multiply(self, x: Tensor) -> Tensor:
        coarse = x.bfloat16()
        both = self.product(torch.cat([coarse, (x - coarse).bfloat16()]), self.scales).float()
        y = both[: len(x)].add_(both[len(x) :])
        return y if self.finer_scales is None else y.add_(self.product(coarse, self.finer_scales))


class UnpackedInt4Linear(UnpackedLinear):
    """A matrix as it is stored. tensors: on the device."""

    def __init__(self, tensors: Mapping[str, Tensor], group: int, bias: Tensor | None, device: Device) -> None:
        super().__init__(device)
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
def _has_kernels(group: int, columns: int) -> bool:
    """Whether the kernels for four bits are such on this machine, and no code that stands in for them."""
    tensors = quantise_groups(torch.ones(TRIED_ROWS, columns), group)
    x = torch.ones(LEAST_ROWS, columns, dtype=torch.bfloat16)
    packed, unpacked = PackedInt4Linear(tensors, group, None), UnpackedInt4Linear(tensors, group, None, Cpu())
    return is_worth_it(lambda: packed(x), lambda: unpacked(x))

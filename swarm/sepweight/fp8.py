"""FP8 checkpoints: matrices of float8_e4m3fn, and what their numbers are to be multiplied by.

The scale, `weight_scale_inv` or `weight_scale`, is one of the whole matrix, one of each row, or one of each block of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swarm.errors import WeightsError
from swarm.sepweight.quantised import Find, StoredMatrix, check_scales

SCALES = ("weight_scale_inv", "weight_scale")


@dataclass(frozen=True, slots=True)
class Fp8Matrix:
    """A matrix and its scales, spread over the rows and columns that each is of."""

    numbers: Tensor
    scale: Tensor
    block: tuple[int, int]

    def plain(self) -> Tensor:
        rows, columns = self.numbers.shape
        down, across = self.block
        scale = self.scale.float().repeat_interleave(down, 0)[:rows].repeat_interleave(across, 1)[:, :columns]
        return self.numbers.float() * scale

    def kept(self) -> Mapping[str, Tensor] | None:
        return None


@dataclass(frozen=True, slots=True)
class Fp8:
    """How an FP8 checkpoint stores matrices. block: rows and columns of a scale, where there are several along both."""

    block: tuple[int, int] | None
    form: str | None = None

    def read(self, find: Find, where: str) -> StoredMatrix | None:
        numbers = find("weight")
        if numbers is None or numbers.dtype is not torch.float8_e4m3fn:
            return None
        scale = next((found for name in SCALES if (found := find(name)) is not None), None)
        if scale is None:
            raise WeightsError(f"{where} is stored in 8 bits, but has neither {' nor '.join(SCALES)}")
        check_scales(scale, where)
        rows, columns = numbers.shape
        if scale.numel() == 1:
            return Fp8Matrix(numbers, scale.reshape(1, 1), (rows, columns))
        if tuple(scale.shape) in ((rows,), (rows, 1)):
            return Fp8Matrix(numbers, scale.reshape(rows, 1), (1, columns))
        if self.block is not None and tuple(scale.shape) == (-(-rows // self.block[0]), -(-columns // self.block[1])):
            return Fp8Matrix(numbers, scale, self.block)
        raise WeightsError(
            f"{where} has shape {[rows, columns]}, its scale {list(scale.shape)}: neither one of all, nor of each row"
            + ("" if self.block is None else f", nor of blocks of {list(self.block)}")
        )


def open_fp8(told: Mapping[str, Any]) -> Fp8:
    """Of a quantization_config. Raises WeightsError for what is not implemented."""
    layout = told.get("fmt") or told.get("format")
    if layout not in (None, "e4m3", "float-quantized", "naive-quantized"):
        raise WeightsError(f'quantization_config: format "{layout}" is not implemented; e4m3 is')
    block = told.get("weight_block_size")
    match block:
        case None:
            return Fp8(None)
        case [int(down), int(across)] if down > 0 and across > 0:
            return Fp8((down, across))
        case _:
            raise WeightsError(f"quantization_config: weight_block_size is {block}; it must be two positive numbers")

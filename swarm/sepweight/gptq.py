"""GPTQ checkpoints: whole numbers of 4 or 8 bits that share words down the columns, scales and points of zero a group.

qweight: int32 [in · bits / 32, out]; qzeros: int32 [groups, out · bits / 32]; scales: float16 [groups, out]; g_idx: int32
[in], the group of each column. "gptq" stores points of zero less one, "gptq_v2" as they are
(https://arxiv.org/abs/2210.17323; the layout is that of AutoGPTQ and GPTQModel).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swarm.errors import WeightsError
from swarm.sepweight.quantised import Find, Int4Matrix, StoredMatrix, find_packed, unpack_words


@dataclass(frozen=True, slots=True)
class Gptq:
    """How a GPTQ checkpoint stores matrices. adds_one: to points of zero. is_symmetric: they are all in the middle."""

    bits: int
    adds_one: bool
    is_symmetric: bool

    @property
    def form(self) -> str | None:
        return "gptq" if self.bits == 4 else None

    def read(self, find: Find, where: str) -> StoredMatrix | None:
        found = find_packed(find, where)
        if found is None:
            return None
        words, zeros, scales = found
        groups = find("g_idx")
        numbers, count = 32 // self.bits * words.shape[0], scales.shape[0]
        expected = {"scales": (count, words.shape[1]), "qzeros": (count, words.shape[1] * self.bits // 32)}
        for name, tensor in (("scales", scales), ("qzeros", zeros)):
            if tuple(tensor.shape) != expected[name]:
                raise WeightsError(
                    f"{where}: {name} has shape {list(tensor.shape)}; {self.bits} bits and a qweight of "
                    f"{list(words.shape)} imply {list(expected[name])}"
                )
        points = (unpack_words(zeros, self.bits, 1) + self.adds_one) & (2**self.bits - 1)
        self._check_points(points, where)
        order = None if groups is None else _order(groups.long(), numbers, count, where)
        unpacked = unpack_words(words, self.bits, 0).T
        if order is not None:
            unpacked = unpacked[:, order]
        made = Int4Matrix if self.bits == 4 else WideMatrix
        return made(unpacked.contiguous(), scales.T.contiguous(), points.T.contiguous(), order)

    def _check_points(self, points: Tensor, where: str) -> None:
        middle = 2 ** (self.bits - 1)
        if self.is_symmetric and bool((points == points[0, 0]).all()) and int(points[0, 0]) != middle:
            option = "--no-gptq-zero-plus-one" if self.adds_one else "--gptq-zero-plus-one"
            raise WeightsError(
                f"{where}: it is quantised symmetrically, so zeros should be {middle}, but are read as "
                f"{int(points[0, 0])}: the checkpoint's format field is wrong; pass {option}"
            )


class WideMatrix(Int4Matrix):
    """Eight bits a number: there is no form for groups of such."""

    def kept(self) -> Mapping[str, Tensor] | None:
        return None


def open_gptq(told: Mapping[str, Any], zero_plus_one: bool | None) -> Gptq:
    """Of a quantization_config. zero_plus_one: None as its format field says. Raises WeightsError."""
    bits = told.get("bits")
    if bits not in (4, 8):
        raise WeightsError(f"quantization_config: GPTQ of {bits} bits is not implemented; 4 and 8 are")
    layout = told.get("checkpoint_format") or told.get("format") or "gptq"
    if layout not in ("gptq", "gptq_v2"):
        raise WeightsError(f'quantization_config: checkpoint_format "{layout}" is none of gptq, gptq_v2')
    return Gptq(bits, layout == "gptq" if zero_plus_one is None else zero_plus_one, bool(told.get("sym", False)))


def _order(groups: Tensor, columns: int, count: int, where: str) -> Tensor | None:
    """Which columns to take one after another so that groups follow each other; None where they do."""
    if tuple(groups.shape) != (columns,):
        raise WeightsError(
            f"{where}: g_idx has shape {list(groups.shape)}; a qweight of {columns} columns needs [{columns}]"
        )
    if int(groups.min()) < 0 or int(groups.max()) >= count:
        odd = int(groups.min()) if int(groups.min()) < 0 else int(groups.max())
        raise WeightsError(f"{where}: g_idx names group {odd}; there are {count}")
    sizes = torch.bincount(groups, minlength=count)
    if columns % count or bool((sizes != columns // count).any()):
        raise WeightsError(
            f"{where}: g_idx puts {int(sizes.min())} to {int(sizes.max())} of {columns} columns into each of {count} "
            "groups; groups of different sizes are not implemented"
        )
    order = groups.argsort(stable=True)
    return None if bool((order == torch.arange(columns)).all()) else order

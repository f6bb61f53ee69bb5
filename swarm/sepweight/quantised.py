"""Checkpoints whose matrices are quantised already: as GPTQ, AWQ and FP8 checkpoints are published.

What each of their formats looks like is a room of its own (gptq.py, awq.py, fp8.py); here is what they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from swarm.errors import WeightsError
from swarm.sepweight.checkpoint import ShardedSource
from swarm.sepweight.int4 import kernel_group, pack_pairs
from swarm.sepweight.source import Stored

Find = Callable[[str], "Tensor | None"]  # a tensor of a matrix, by what its name ends in


class StoredMatrix(Protocol):
    """A matrix of a quantised checkpoint, [out, in]."""

    def plain(self) -> Tensor:
        """Its numbers, float32."""
        ...

    def kept(self) -> Mapping[str, Tensor] | None:
        """What stands for it in a sepweight directory, its numbers unchanged; None where there is no form for that."""
        ...


class Method(Protocol):
    """How a checkpoint's matrices are quantised. form: as a manifest names it; None where they cannot stay so."""

    @property
    def form(self) -> str | None: ...

    def read(self, find: Find, where: str) -> StoredMatrix | None:
        """A matrix; None where it is stored plain. where: for messages. Raises WeightsError for tensors that disagree."""
        ...


class QuantisedCheckpoint:
    """A checkpoint of quantised matrices: read, they are plain; kept, they are as they are."""

    def __init__(self, checkpoint: ShardedSource, method: Method) -> None:
        self.where: Path = checkpoint.where
        self.config: Mapping[str, Any] = checkpoint.config
        self.form: str | None = method.form
        self._checkpoint = checkpoint
        self._method = method

    def read(self, key: str, tensor: str) -> Stored:
        matrix = self._matrix(key, tensor)
        if matrix is None:
            return self._checkpoint.read(key, tensor)
        plain = matrix.plain()
        return Stored(tuple(plain.shape), None, iter([plain]))

    def keep(self, key: str, tensor: str) -> Mapping[str, Tensor] | None:
        matrix = self._matrix(key, tensor)
        return None if matrix is None else matrix.kept()

    def _matrix(self, key: str, tensor: str) -> StoredMatrix | None:
        if not tensor.endswith(".weight"):
            return None

        def find(ending: str) -> Tensor | None:
            return self._checkpoint.find(key, tensor, ending)

        return self._method.read(find, f"{self.where}: {key}/{tensor.removesuffix('.weight')}")

    def documents(self) -> Mapping[str, bytes]:
        return self._checkpoint.documents()

    def fingerprint(self) -> dict[str, int]:
        return self._checkpoint.fingerprint()

    def close(self) -> None:
        self._checkpoint.close()


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """Four bits a number, (q - zero) * scale.

    numbers: [out, in] uint8, in columns whose groups follow each other. scale: [out, groups]. zero: [out, groups] uint8.
    order: which column of the model's each of them is; None: as they are.
    """

    numbers: Tensor
    scale: Tensor
    zero: Tensor
    order: Tensor | None = None

    @property
    def group(self) -> int:
        return self.numbers.shape[1] // self.scale.shape[1]

    def plain(self) -> Tensor:
        scale = self.scale.float().repeat_interleave(self.group, 1)
        numbers = self.numbers.float().sub_(self.zero.float().repeat_interleave(self.group, 1)).mul_(scale)
        if self.order is None:
            return numbers
        plain = numbers.new_empty(numbers.shape)
        plain[:, self.order] = numbers
        return plain

    def kept(self) -> Mapping[str, Tensor] | None:
        """In groups that kernels take: larger ones repeat their scales."""
        group = kernel_group(self.group)
        if group is None:
            return None
        times = self.group // group
        tensors = {
            "int4": pack_pairs(self.numbers),
            "scale": self.scale.repeat_interleave(times, 1),
            "zero": self.zero.repeat_interleave(times, 1),
        }
        return tensors if self.order is None else {**tensors, "order": self.order}


def find_packed(find: Find, where: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """qweight, qzeros and scales of a matrix; None where it is stored plain. Raises WeightsError if one is missing."""
    words, zeros, scales = find("qweight"), find("qzeros"), find("scales")
    if words is None:
        return None
    if zeros is None or scales is None:
        raise WeightsError(f"{where} has a qweight, but no {'qzeros' if zeros is None else 'scales'}")
    check_scales(scales, where)
    return words, zeros, scales


def check_scales(scales: Tensor, where: str) -> None:
    """Raise WeightsError for scales that make nothing of numbers."""
    odd = ~scales.float().isfinite() | (scales == 0)
    if odd.any():
        place = odd.nonzero()[0].tolist()
        raise WeightsError(
            f"{where}: the scale at {place} is {float(scales[tuple(place)])}; the checkpoint is damaged, fetch it again"
        )


def unpack_words(words: Tensor, bits: int, dimension: int) -> Tensor:
    """Whole numbers that share 32-bit words along a dimension, the first one in the lowest bits → uint8."""
    shifts = words.new_tensor(range(0, 32, bits))
    spread = (words.unsqueeze(dimension + 1) >> shifts.view(-1, *[1] * (words.ndim - 1 - dimension))) & (2**bits - 1)
    return spread.byte().flatten(dimension, dimension + 1)

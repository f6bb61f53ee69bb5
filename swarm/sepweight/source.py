"""What a conversion reads from: somewhere with a config, the tensors that it implies, and documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that can be read once, piece by piece.

    dtype: as stored; None where it is quantised. pieces: of its rows, in order; vectors come in one piece.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    pieces: Iterator[Tensor]


def in_one_piece(tensor: Tensor) -> Stored:
    return Stored(tuple(tensor.shape), tensor.dtype, iter([tensor]))


class Source(Protocol):
    """Somewhere to read a model from, by sepweight key and tensor name.

    where: for messages. config: as config.json has it.
    """

    where: Path
    config: Mapping[str, Any]

    def read(self, key: str, tensor: str) -> Stored:
        """One tensor. Raises WeightsError naming file and tensor, also while its pieces are read."""
        ...

    def documents(self) -> Mapping[str, bytes]:
        """Tokenizer, templates, generation settings: by name, those of `manifest.DOCUMENTS` that are there."""
        ...

    def fingerprint(self) -> dict[str, int]:
        """Names and sizes of the files read, to notice another checkpoint on resume."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class QuantisedSource(Source, Protocol):
    """A source whose matrices are quantised, and can stay so. form: what a manifest calls matrices that do;
    None where there is no form for any of them.
    """

    form: str | None

    def keep(self, key: str, tensor: str) -> Mapping[str, Tensor] | None:
        """What stands for a matrix, by what names end in instead of `weight`; None for one that cannot be kept."""
        ...

"""The tensors of a GGUF model as a checkpoint of its family would have them: dequantised, rows in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swarm.errors import WeightsError
from swarm.sepweight.family import GgufFamily
from swarm.sepweight.gguf.blocks import keep_blocks
from swarm.sepweight.gguf.file import GgufFile, StoredTensor
from swarm.sepweight.gguf.tokenizer import make_documents
from swarm.sepweight.source import Stored

PIECE_NUMBERS = 8 << 20  # are dequantised at a time
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GgufSource:
    """A GGUF model."""

    form: str | None = "gguf"

    def __init__(self, file: GgufFile, family: GgufFamily, tokenizer: Path | None = None) -> None:
        """tokenizer: a directory whose documents are taken instead of those that the file tells.

        Raises WeightsError for what the family does not implement.
        """
        self.where = file.path
        self.config: Mapping[str, Any] = family.read_gguf(file)
        self._file = file
        self._family = family
        self._tokenizer = tokenizer

    def read(self, key: str, tensor: str) -> Stored:
        placed = self._family.place_gguf(self.config, key, tensor)
        stored = self._file.tensors.get(placed.name)
        if stored is None:
            raise WeightsError(f"{self.where} has no tensor {placed.name} (needed for {key}/{tensor})")
        order = None if placed.rows is None else np.asarray(placed.rows)
        return Stored(stored.shape, _PLAIN.get(stored.type), _read_pieces(stored, order, placed.add))

    def keep(self, key: str, tensor: str) -> Mapping[str, Tensor] | None:
        """A matrix with the numbers of its blocks, or in int8 where it has more than four bits a number."""
        placed = self._family.place_gguf(self.config, key, tensor)
        stored = self._file.tensors[placed.name]
        data = stored.read()
        if placed.rows is not None:
            data = data[np.asarray(placed.rows)]
        return keep_blocks(stored, data)

    def documents(self) -> Mapping[str, bytes]:
        return make_documents(self._file.path, self._file.metadata, self._tokenizer)

    def fingerprint(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self._file.paths}

    def close(self) -> None:
        """Nothing stays open."""


def _read_pieces(stored: StoredTensor, order: NDArray[Any] | None, add: float) -> Iterator[Tensor]:
    data = stored.read()
    if len(stored.shape) == 1:
        data = data.reshape(1 if order is None else stored.shape[0], -1)
    step = max(1, PIECE_NUMBERS // stored.shape[-1])
    for first in range(0, len(data), step):
        rows = data[first : first + step] if order is None else data[order[first : first + step]]
        piece = _decode(stored, rows)
        if add:
            piece = piece + add
        yield piece.reshape(-1, *stored.shape[1:])


def _decode(stored: StoredTensor, rows: NDArray[np.uint8]) -> Tensor:
    plain = _PLAIN.get(stored.type)
    if plain is not None:
        return torch.from_numpy(np.array(rows)).view(plain)
    return torch.from_numpy(stored.decode(rows))

"""Reads checkpoints as Meta publishes them: params.json, consolidated.NN.pth, tokenizer.model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from swarm.errors import WeightsError
from swarm.sepweight.checkpoint import load_pickled, read_documents, read_object
from swarm.sepweight.family import ShardedFamily
from swarm.sepweight.gguf.tokenizer import make_documents
from swarm.sepweight.source import Stored, in_one_piece
from swarm.sepweight.tokenizer_model import read_tokenizer_model

PARAMS_NAME = "params.json"


class ConsolidatedSource:
    """A model whose tensors are cut into shards, each with a piece of every one."""

    def __init__(self, directory: Path, family: ShardedFamily) -> None:
        """Raises WeightsError for what the family does not implement."""
        self.where = directory
        self._family = family
        self._paths = sorted(directory.glob("consolidated.*.pth"))
        params = _read_params(directory / PARAMS_NAME)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in load_pickled(self._paths[0]).items()}
        self.config: Mapping[str, Any] = family.read_params(params, self._shapes, len(self._paths))

    def read(self, key: str, tensor: str) -> Stored:
        placed = self._family.place_sharded(self.config, self._shapes, key, tensor)
        pieces: list[torch.Tensor] = []
        for path in self._paths if placed.dimension is not None else self._paths[:1]:
            shard = load_pickled(path)  # mapped anew for each tensor: pages that were read stay otherwise
            if placed.name not in shard:
                raise WeightsError(f"{path} has no tensor {placed.name} (needed for {key}/{tensor})")
            pieces.append(shard[placed.name].clone())
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, placed.dimension or 0)
        if placed.rows is not None and len(placed.rows) == len(whole):
            whole = whole[list(placed.rows)]
        return in_one_piece(whole)

    def documents(self) -> Mapping[str, bytes]:
        """Those that lie there; a tokenizer is made of tokenizer.model where there is no tokenizer.json."""
        documents, path = read_documents(self.where), self.where / "tokenizer.model"
        if "tokenizer.json" in documents or not path.is_file():
            return documents
        made = make_documents(path, read_tokenizer_model(path, has_tools="rope_scaling" in self.config), None)
        return {**made, **documents}

    def fingerprint(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self._paths}

    def close(self) -> None:
        """Nothing stays open."""


def _read_params(path: Path) -> dict[str, Any]:
    params = read_object(path)
    inner = params.get("model")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else params

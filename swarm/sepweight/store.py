"""Reads the tensors of a sepweight directory, aliases resolved, checking each file against the manifest first."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from swarm.errors import WeightsError
from swarm.parts import Part, parse_part
from swarm.sepweight.manifest import Manifest, check_sizes, file_keys, file_name, read_manifest, sha256_of
from swarm.sepweight.tensorfile import TensorFile, finish


class Store:
    """A sepweight directory open for reading."""

    def __init__(self, directory: Path) -> None:
        """Raises WeightsError if there is no usable manifest."""
        self.directory = directory
        self.manifest: Manifest = read_manifest(directory)

    def check(self, part: Part) -> None:
        """Raise WeightsError, naming the file, unless the part's files are there, whole, and hold what the manifest says."""
        keys = self.manifest.needed_files(part)
        check_sizes(self.directory, self.manifest, keys)
        for key in keys:
            with self.open(key) as file:
                self._check_tensors(key, file)

    def verify(self, key: str) -> None:
        """Raise WeightsError unless a file's bytes are those that the manifest names by their digest."""
        path = self.directory / file_name(key)
        if sha256_of(path) != self.manifest.files[key].sha256:
            raise WeightsError(f"{path} is damaged: copy it from another machine or convert the checkpoint again")

    def _check_tensors(self, key: str, file: TensorFile) -> None:
        for name, entry in self.manifest.files[key].tensors.items():
            wanted = (getattr(torch, entry.dtype), tuple(entry.shape))
            actual = (file.dtype(name), tuple(file.shape(name)))
            if actual != wanted:
                raise WeightsError(
                    f"{file.path}: {name} is {actual[0]} {list(actual[1])}, "
                    f"the manifest says {wanted[0]} {list(wanted[1])}"
                )

    def open(self, key: str) -> TensorFile:
        """The file of a key, for reading tensor by tensor."""
        return TensorFile(self.directory / file_name(key))

    def read(self, key: str, tensor: str) -> Tensor:
        """One tensor in memory of its own, with the stored dtype and shape."""
        return finish(self.reading(key, tensor))

    def reading(self, key: str, tensor: str, rows: range | None = None) -> Generator[int, None, Tensor]:
        """The same a piece at a time: yields the bytes of each. rows: those that are wanted; None: all."""
        owner, name = self.manifest.resolve(key, tensor)
        with self.open(owner) as file:
            return (yield from file.reading(name, rows))

    def size_of(self, key: str, tensor: str) -> int:
        """Bytes of a tensor as stored."""
        owner, name = self.manifest.resolve(key, tensor)
        return self.manifest.files[owner].tensors[name].nbytes

    def map(self, key: str) -> dict[str, Tensor]:
        """Every tensor of a key as a view of the mapped file (read-only use)."""
        found: dict[str, Tensor] = {}
        for tensor in self.manifest.tensor_names(key):
            owner, name = self.manifest.resolve(key, tensor)
            opened: Any = safe_open(self.directory / file_name(owner), framework="pt")
            with opened as file:
                found[tensor] = file.get_tensor(name)
        return found


def load(directory: str | Path, spec: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of a part, memory-mapped: key (`begin`, `mid.00003`, `end`) → tensor name → tensor.

    Touches no file but the part's own. Raises WeightsError or RequestError naming what is wrong.
    """
    store = Store(Path(directory))
    part = parse_part(spec, store.manifest.layers)
    store.check(part)
    return {key: store.map(key) for key in file_keys(part)}

"""Another form of a model that lies in a sepweight directory: the same model, another variant of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.errors import WeightsError
from swarm.parts import whole
from swarm.sepweight.convert import convert_source
from swarm.sepweight.dump import Progress
from swarm.sepweight.family import Family
from swarm.sepweight.manifest import PLAIN_NAME, Manifest, file_name
from swarm.sepweight.scheme import Quantisation, StoredScheme
from swarm.sepweight.source import Stored, in_one_piece
from swarm.sepweight.store import Store


class StoredSource:
    """A sepweight directory whose matrices are plain, to convert from."""

    def __init__(self, store: Store) -> None:
        self.where = store.directory
        self.config: Mapping[str, Any] = store.manifest.config
        self._store = store

    def read(self, key: str, tensor: str) -> Stored:
        return in_one_piece(self._store.read(key, tensor))

    def documents(self) -> Mapping[str, bytes]:
        return {name: (self.where / name).read_bytes() for name in self._store.manifest.documents}

    def fingerprint(self) -> dict[str, int]:
        return {file_name(key): entry.bytes for key, entry in self._store.manifest.files.items() if entry.tensors}

    def close(self) -> None:
        """Nothing stays open."""


def quantise(
    directory: Path,
    destination: Path,
    family: Family,
    quantisation: Quantisation[StoredScheme],
    *,
    progress: Progress = lambda done, total, key: None,
) -> Manifest:
    """Write a sepweight directory's matrices in another form; resume if it was begun.

    Raises WeightsError if they are in such a form already, or the destination holds another model.
    """
    store = Store(directory)
    manifest = store.manifest
    if manifest.scheme != PLAIN_NAME:
        raise WeightsError(f"{directory} is quantised already ({manifest.scheme}); quantise what it was made from")
    if destination.exists() and destination.samefile(directory):
        raise WeightsError(f"{destination} is what is to be quantised; choose another directory")
    store.check(whole(manifest.layers))
    return convert_source(
        StoredSource(store),
        destination,
        family,
        dtype=manifest.dtype,
        quantisation=quantisation,
        name=manifest.name,
        model_id=manifest.model_id,
        progress=progress,
    )

"""Writes a sepweight directory in the layout that llm_sepweight 0.10.0 loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import torch

from swarm.errors import WeightsError
from swarm.parts import whole
from swarm.sepweight.dump import Progress
from swarm.sepweight.manifest import PLAIN_NAME, file_keys, write_durably
from swarm.sepweight.store import Store


def export_legacy(directory: Path, destination: Path, *, progress: Progress = lambda done, total, key: None) -> None:
    """Write begin.pth, mid.NNNNN.pth, end.pth as llm_sepweight 0.10.0 loads them, and config and documents beside them."""
    store = Store(directory)
    if store.manifest.scheme != PLAIN_NAME:
        raise WeightsError(
            f'{directory} stores its matrices as "{store.manifest.scheme}", which the legacy layout has no place for; '
            "export a directory that was converted without a scheme"
        )
    destination.mkdir(parents=True, exist_ok=True)
    keys = file_keys(whole(store.manifest.layers))
    for index, key in enumerate(keys):
        tensors = {name: store.read(key, name) for name in store.manifest.tensor_names(key)}
        path = destination / f"{key}.pth"
        temporary = path.with_name(path.name + ".tmp")
        torch.save(tensors, temporary)
        temporary.replace(path)
        progress(index + 1, len(keys), key)
    write_durably(destination / "config.json", msgspec.json.format(msgspec.json.encode(store.manifest.config)))
    for name in store.manifest.documents:
        shutil.copyfile(directory / name, destination / name)

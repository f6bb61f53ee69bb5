"""Writes sepweight directories file by file, from tensors that are made in memory or in another form of the same model.

A file appears under its final name only when it is whole, and room for it is claimed before anything is written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from swarm.errors import WeightsError
from swarm.parts import whole
from swarm.sepweight.family import Family, Outline
from swarm.sepweight.manifest import (
    FORMAT,
    PLAIN_NAME,
    SCHEME_FORMAT,
    DocumentEntry,
    FileEntry,
    Manifest,
    TensorEntry,
    file_keys,
    file_name,
    sha256_of,
    write_durably,
    write_manifest,
)
from swarm.sepweight.scheme import StoredScheme, pack_file
from swarm.sepweight.store import Store

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Progress = Callable[[int, int, str], None]  # files done, files in all, key just finished


def dump(
    destination: Path,
    family: Family,
    config: Mapping[str, Any],
    read: Callable[[str, str], Tensor],
    *,
    name: str,
    model_id: str,
    dtype: str,
    scheme: StoredScheme | None = None,
    documents: Mapping[str, bytes] = MappingProxyType({}),
    progress: Progress = lambda done, total, key: None,
) -> Manifest:
    """Write a sepweight directory from tensors made in memory: `read(key, tensor)` gives each one when its turn comes.

    scheme: how matrices are stored; None: plain. Raises WeightsError where the disk is full.
    """
    outline = family.outline(config)
    destination.mkdir(parents=True, exist_ok=True)
    files: dict[str, FileEntry] = {}
    keys = file_keys(whole(outline.layers))
    for index, key in enumerate(keys):
        given = {tensor: read(key, tensor).to(DTYPES[dtype]).contiguous() for tensor in outline.files[key]}
        tensors = pack_file(scheme, key, given)
        entries = {
            name: TensorEntry(str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in tensors.items()
        }
        path = destination / file_name(key)
        if tensors:
            save_part(path, tensors, lambda: bytes_needed(outline, list(outline.files), dtype))
        files[key] = FileEntry(path.stat().st_size, sha256_of(path), entries) if tensors else FileEntry(0, "", {})
        progress(index + 1, len(keys), key)
    manifest = Manifest(
        format=FORMAT if scheme is None else SCHEME_FORMAT,
        family=family.name,
        name=name,
        model_id=model_id,
        scheme=PLAIN_NAME if scheme is None else scheme.name,
        dtype=dtype,
        layers=outline.layers,
        config=dict(config),
        files=files,
        aliases={key: dict(names) for key, names in outline.aliases.items()},
        documents=write_documents(documents, destination),
    )
    write_manifest(destination, manifest)
    return manifest


def quantise(
    directory: Path,
    destination: Path,
    family: Family,
    scheme: StoredScheme,
    *,
    progress: Progress = lambda done, total, key: None,
) -> Manifest:
    """Write a sepweight directory's matrices in another form: the same model, another variant of it.

    Raises WeightsError if they are in such a form already, or the destination is not empty.
    """
    store = Store(directory)
    manifest = store.manifest
    if manifest.scheme != PLAIN_NAME:
        raise WeightsError(f"{directory} is quantised already ({manifest.scheme}); quantise what it was made from")
    if destination.exists() and any(destination.iterdir()):
        raise WeightsError(f"{destination} is not empty; choose another directory")
    store.check(whole(manifest.layers))
    return dump(
        destination,
        family,
        manifest.config,
        store.read,
        name=manifest.name,
        model_id=manifest.model_id,
        dtype=manifest.dtype,
        scheme=scheme,
        documents={name: (directory / name).read_bytes() for name in manifest.documents},
        progress=progress,
    )


def bytes_needed(outline: Outline, keys: list[str], dtype: str) -> int:
    """Of some files, stored plain."""
    return sum(TensorEntry(dtype, tuple(shape)).nbytes for key in keys for shape in outline.files[key].values())


def save_part(path: Path, tensors: Mapping[str, Tensor], still_needed: Callable[[], int]) -> None:
    """Write a file under its final name, once it is whole. still_needed: bytes, for what a full disk is told with.

    Raises WeightsError where the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    # A writer that maps its output dies of SIGBUS on a full disk, so room is claimed before anything is written.
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    try:
        with temporary.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + (1 << 16))
        save_file(dict(tensors), temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    except Exception as error:
        temporary.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or free < size:
            raise WeightsError(
                f"disk full while writing {path}: the conversion still needs {still_needed():,} bytes, {free:,} are free; "
                "finished files stay, run the same command again once there is room"
            ) from None
        raise
    temporary.replace(path)


def write_documents(documents: Mapping[str, bytes], destination: Path) -> dict[str, DocumentEntry]:
    for name, data in documents.items():
        write_durably(destination / name, data)
    return {name: DocumentEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in documents.items()}

"""Writes sepweight directories file by file, from tensors that are made in memory.

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
from swarm.sepweight.scheme import Quantisation, StoredScheme, pack_file, tied_to_pack

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
    quantisation: Quantisation[StoredScheme] | None = None,
    documents: Mapping[str, bytes] = MappingProxyType({}),
    progress: Progress = lambda done, total, key: None,
) -> Manifest:
    """Write a sepweight directory from tensors made in memory: `read(key, tensor)` gives each one when its turn comes.

    quantisation: how matrices are stored; None: plain. Raises WeightsError where the disk is full.
    """
    outline = family.outline(config)
    tied = tied_to_pack(outline, quantisation)
    destination.mkdir(parents=True, exist_ok=True)
    files: dict[str, FileEntry] = {}
    keys = file_keys(whole(outline.layers))
    for index, key in enumerate(keys):
        given = {tensor: read(key, tensor).to(DTYPES[dtype]).contiguous() for tensor in outline.files[key]}
        given |= {tensor: read(*source).to(DTYPES[dtype]) for tensor, source in tied.get(key, {}).items()}
        tensors = pack_file(quantisation, key, given)
        files[key] = save_file_of(destination, key, tensors, bytes_needed(outline, list(outline.files), dtype))
        progress(index + 1, len(keys), key)
    manifest = Manifest(
        format=FORMAT if quantisation is None else SCHEME_FORMAT,
        family=family.name,
        name=name,
        model_id=model_id,
        scheme=PLAIN_NAME if quantisation is None else quantisation.name,
        dtype=dtype,
        layers=outline.layers,
        config=dict(config),
        files=files,
        aliases={key: dict(names) for key, names in outline.aliases.items() if key not in tied},
        documents=write_documents(documents, destination),
    )
    write_manifest(destination, manifest)
    return manifest


def save_file_of(destination: Path, key: str, tensors: Mapping[str, Tensor], still_needed: int) -> FileEntry:
    """Write the file of a key, if it has tensors at all, as `save_part`; returns its entry in the manifest."""
    if not tensors:  # a tied head: its values live in another file
        return FileEntry(0, "", {})
    path = destination / file_name(key)
    save_part(path, tensors, still_needed)
    entries = {
        name: TensorEntry(str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in tensors.items()
    }
    return FileEntry(path.stat().st_size, sha256_of(path), entries)


def bytes_needed(outline: Outline, keys: list[str], dtype: str) -> int:
    """Of some files, stored plain."""
    return sum(TensorEntry(dtype, tuple(shape)).nbytes for key in keys for shape in outline.files[key].values())


def save_part(path: Path, tensors: Mapping[str, Tensor], still_needed: int) -> None:
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
                f"disk full while writing {path}: the conversion still needs {still_needed:,} bytes, {free:,} are free; "
                "finished files stay, run the same command again once there is room"
            ) from None
        raise
    temporary.replace(path)


def write_documents(documents: Mapping[str, bytes], destination: Path) -> dict[str, DocumentEntry]:
    for name, data in documents.items():
        write_durably(destination / name, data)
    return {name: DocumentEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in documents.items()}

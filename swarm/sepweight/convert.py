"""Writes sepweight directories from checkpoints, one part at a time, and exports the legacy layout.

Peak memory is one part. A part appears under its final name only when it is whole; a journal beside the parts lets an
interrupted conversion go on where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from swarm.errors import WeightsError
from swarm.parts import whole
from swarm.sepweight.checkpoint import open_source, read_config
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
    read_manifest,
    sha256_of,
    write_durably,
    write_manifest,
)
from swarm.sepweight.scheme import StoredScheme, pack_file
from swarm.sepweight.source import Source
from swarm.sepweight.store import Store
from swarm.sepweight.tensorfile import bytes_of

JOURNAL_NAME = "sepweight.partial.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Progress = Callable[[int, int, str], None]  # files done, files in all, key just finished


class _Done(msgspec.Struct, frozen=True):
    entry: FileEntry
    source_digest: str


class _Journal(msgspec.Struct):
    """What an interrupted conversion has finished, and of what."""

    fingerprint: dict[str, int]
    config_digest: str
    dtype: str
    done: dict[str, _Done]


def convert(
    source_directory: Path,
    destination: Path,
    family: Family,
    *,
    dtype: str | None = None,
    name: str | None = None,
    progress: Progress = lambda done, total, key: None,
) -> Manifest:
    """Convert a directory, of a checkpoint or in the legacy layout, into a sepweight directory, as `convert_source`."""
    source = open_source(source_directory, read_config(source_directory), family)
    try:
        return convert_source(source, destination, family, dtype=dtype, name=name, progress=progress)
    finally:
        source.close()


def convert_source(
    source: Source,
    destination: Path,
    family: Family,
    *,
    dtype: str | None = None,
    name: str | None = None,
    progress: Progress = lambda done, total, key: None,
) -> Manifest:
    """Convert what a source holds into a sepweight directory; resume if one was begun.

    dtype: "float32", "float16" or "bfloat16"; None keeps what the checkpoint has. name: what users call
    the model; the destination's own name by default.
    Raises WeightsError naming file and tensor, or how much disk is needed.
    """
    outline = family.outline(source.config)
    documents = source.documents()
    _check_documents(source, documents)
    dtype = dtype or _stored_dtype(source, outline)
    destination.mkdir(parents=True, exist_ok=True)
    journal = _open_journal(destination, source, dtype)
    keys = file_keys(whole(outline.layers))
    for index, key in enumerate(keys):
        if key not in journal.done:
            journal.done[key] = _write_part(source, outline, destination, key, dtype, keys[index:])
            write_durably(destination / JOURNAL_NAME, msgspec.json.encode(journal))
        progress(index + 1, len(keys), key)
    manifest = Manifest(
        format=FORMAT,
        family=family.name,
        name=name or destination.resolve().name,
        model_id=_model_id(outline, journal),
        dtype=dtype,
        layers=outline.layers,
        config=dict(source.config),
        files={key: journal.done[key].entry for key in keys},
        aliases={key: dict(names) for key, names in outline.aliases.items()},
        documents=_write_documents(documents, destination),
    )
    write_manifest(destination, manifest)
    (destination / JOURNAL_NAME).unlink(missing_ok=True)
    return manifest


def _stored_dtype(source: Source, outline: Outline) -> str:
    """Of a layer's largest matrix: what all are converted to where nothing is asked for. Quantised ones become bfloat16."""
    shapes = outline.files["mid.00000"]
    name = max(shapes, key=lambda one: prod(shapes[one]))
    stored = source.read("mid.00000", name).dtype
    if stored is None:
        return "bfloat16"
    if stored not in DTYPE_NAMES:
        raise WeightsError(f"{source.where}: mid.00000/{name} is {stored}; pass --dtype {'|'.join(DTYPES)}")
    return DTYPE_NAMES[stored]


def _open_journal(destination: Path, source: Source, dtype: str) -> _Journal:
    config_digest = hashlib.sha256(msgspec.json.encode(dict(source.config), order="deterministic")).hexdigest()
    fresh = _Journal(source.fingerprint(), config_digest, dtype, {})
    path = destination / JOURNAL_NAME
    if not path.exists():
        if any(destination.glob("*.safetensors")):
            _check_replaceable(destination)
        return fresh
    try:
        journal = msgspec.json.decode(path.read_bytes(), type=_Journal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return fresh
    if (journal.fingerprint, journal.config_digest, journal.dtype) != (
        fresh.fingerprint,
        fresh.config_digest,
        fresh.dtype,
    ):
        return fresh
    for key in list(journal.done):
        part = destination / file_name(key)
        entry = journal.done[key].entry
        if entry.tensors and not (part.is_file() and part.stat().st_size == entry.bytes):
            del journal.done[key]
    return journal


def _check_replaceable(destination: Path) -> None:
    """Files without a journal are somebody's weights: overwrite them only where a manifest says they are a conversion."""
    try:
        read_manifest(destination)
    except WeightsError:
        raise WeightsError(
            f"{destination} holds safetensors files but is no sepweight directory; choose an empty DST"
        ) from None


def _write_part(
    source: Source, outline: Outline, destination: Path, key: str, dtype: str, remaining: list[str]
) -> _Done:
    tensors: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for name, shape in sorted(outline.files[key].items()):
        tensors[name] = _read_tensor(source, key, name, tuple(shape), DTYPES[dtype], digest.update)
    if not tensors:  # a tied head: its values live in another file
        return _Done(FileEntry(0, "", {}), digest.hexdigest())
    path = destination / file_name(key)
    _save(path, tensors, lambda: _bytes_needed(outline, remaining, dtype))
    entries = {name: TensorEntry(dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    return _Done(FileEntry(path.stat().st_size, sha256_of(path), entries), digest.hexdigest())


def _read_tensor(
    source: Source, key: str, name: str, shape: tuple[int, ...], dtype: torch.dtype, note: Callable[[Any], None]
) -> Tensor:
    """A tensor in another dtype; note: told what it is as stored, bytes after shape and dtype."""
    stored = source.read(key, name)
    if stored.shape != shape:
        raise WeightsError(
            f"{source.where}: {key}/{name} has shape {list(stored.shape)}, the config implies {list(shape)}"
        )
    tensor = torch.empty(shape, dtype=dtype)
    row = 0
    for piece in stored.pieces:
        if not piece.dtype.is_floating_point:
            raise WeightsError(f"{source.where}: {key}/{name} is {piece.dtype}, not a floating-point tensor")
        if row == 0:
            note(f"{name} {piece.dtype} {list(shape)}\n".encode())
        if piece.numel():
            note(bytes_of(piece.contiguous()))
        tensor[row : row + len(piece)] = piece
        row += len(piece)
    return tensor


def _bytes_needed(outline: Outline, keys: list[str], dtype: str) -> int:
    return sum(TensorEntry(dtype, tuple(shape)).nbytes for key in keys for shape in outline.files[key].values())


def _save(path: Path, tensors: Mapping[str, Tensor], bytes_needed: Callable[[], int]) -> None:
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
                f"disk full while writing {path}: the conversion still needs {bytes_needed():,} bytes, {free:,} are free; "
                "finished files stay, run the same command again once there is room"
            ) from None
        raise
    temporary.replace(path)


def _model_id(outline: Outline, journal: _Journal) -> str:
    """Names the source weights and what is computed with them: the same for every dtype and layout that one checkpoint is
    converted to, another where its config asks for another rotation, say."""
    digest = hashlib.sha256(f"swarm model id 2\n{outline.mathematics}\n".encode())
    for key in file_keys(whole(outline.layers)):
        digest.update(f"{key} {journal.done[key].source_digest}\n".encode())
    return digest.hexdigest()[:32]


def _write_documents(documents: Mapping[str, bytes], destination: Path) -> dict[str, DocumentEntry]:
    for name, data in documents.items():
        write_durably(destination / name, data)
    return {name: DocumentEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in documents.items()}


def _check_documents(source: Source, documents: Mapping[str, bytes]) -> None:
    """Raise WeightsError rather than have the first chat find out."""
    if "tokenizer.json" not in documents:
        return
    try:
        Tokenizer.from_buffer(documents["tokenizer.json"])
    except Exception as error:  # the library raises a bare Exception
        raise WeightsError(
            f"{source.where}: tokenizer.json is no tokenizer: {error}; copy it from where the checkpoint came from"
        ) from None


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
) -> Manifest:
    """Write a sepweight directory from tensors made in memory: `read(key, tensor)` gives each one when its turn comes.

    scheme: how matrices are stored; None: plain.
    """
    outline = family.outline(config)
    destination.mkdir(parents=True, exist_ok=True)
    files: dict[str, FileEntry] = {}
    for key in file_keys(whole(outline.layers)):
        given = {tensor: read(key, tensor).to(DTYPES[dtype]).contiguous() for tensor in outline.files[key]}
        tensors = pack_file(scheme, key, given)
        entries = {name: TensorEntry(DTYPE_NAMES[one.dtype], tuple(one.shape)) for name, one in tensors.items()}
        path = destination / file_name(key)
        if tensors:
            _save(path, tensors, lambda: _bytes_needed(outline, list(outline.files), dtype))
        files[key] = FileEntry(path.stat().st_size, sha256_of(path), entries) if tensors else FileEntry(0, "", {})
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
    )
    write_manifest(destination, manifest)
    return manifest


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

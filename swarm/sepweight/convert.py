"""Writes sepweight directories from checkpoints, one part at a time.

Peak memory is one part. A part appears under its final name only when it is whole; a journal beside the parts lets an
interrupted conversion go on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor

from swarm.errors import WeightsError
from swarm.parts import whole
from swarm.sepweight.checkpoint import open_source, read_config
from swarm.sepweight.dump import DTYPES, Progress, bytes_needed, save_file_of, write_documents
from swarm.sepweight.family import Family, Outline
from swarm.sepweight.manifest import (
    FORMAT,
    PLAIN_NAME,
    SCHEME_FORMAT,
    FileEntry,
    Manifest,
    file_keys,
    file_name,
    read_manifest,
    write_durably,
    write_manifest,
)
from swarm.sepweight.scheme import Quantisation, StoredScheme, is_matrix, pack_file, tied_to_pack
from swarm.sepweight.source import QuantisedSource, Source
from swarm.sepweight.tensorfile import bytes_of

JOURNAL_NAME = "sepweight.partial.json"
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _Done(msgspec.Struct, frozen=True):
    entry: FileEntry
    source_digest: str


class _Journal(msgspec.Struct):
    """What an interrupted conversion has finished, and of what."""

    fingerprint: dict[str, int]
    config_digest: str
    dtype: str
    form: str
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
    quantisation: Quantisation[StoredScheme] | None = None,
    keeps: bool = False,
    name: str | None = None,
    model_id: str | None = None,
    progress: Progress = lambda done, total, key: None,
) -> Manifest:
    """Convert what a source holds into a sepweight directory; resume if one was begun.

    dtype: "float32", "float16" or "bfloat16"; None keeps what the checkpoint has. quantisation: what matrices become,
    from that dtype. keeps: matrices that are quantised already stay so, where there is a form for that. name: what users
    call the model; the destination's own name by default. model_id: of a source that is known by one already.

    Raises WeightsError naming file and tensor, or how much disk is needed.
    """
    outline = family.outline(source.config)
    documents = source.documents()
    _check_documents(source, documents)
    dtype = dtype or _stored_dtype(source, outline)
    destination.mkdir(parents=True, exist_ok=True)
    kept, form = None, PLAIN_NAME if quantisation is None else quantisation.name
    if keeps and isinstance(source, QuantisedSource) and source.form is not None:
        kept, form = source, source.form
    tied = tied_to_pack(outline, quantisation)
    journal = _open_journal(destination, source, dtype, form)

    def pack(key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return pack_file(quantisation, key, tensors) if kept is None else _keep(kept, key, tensors)

    keys = file_keys(whole(outline.layers))
    for index, key in enumerate(keys):
        if key not in journal.done:
            needed = bytes_needed(outline, keys[index:], dtype)
            journal.done[key] = _write_part(source, outline, destination, key, dtype, pack, tied.get(key, {}), needed)
            write_durably(destination / JOURNAL_NAME, msgspec.json.encode(journal))
        progress(index + 1, len(keys), key)
    manifest = Manifest(
        format=FORMAT if form == PLAIN_NAME else SCHEME_FORMAT,
        scheme=form,
        family=family.name,
        name=name or destination.resolve().name,
        model_id=model_id or _model_id(outline, journal),
        dtype=dtype,
        layers=outline.layers,
        config=dict(source.config),
        files={key: journal.done[key].entry for key in keys},
        aliases={key: dict(names) for key, names in outline.aliases.items() if key not in tied},
        documents=write_documents(documents, destination),
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


def _open_journal(destination: Path, source: Source, dtype: str, form: str) -> _Journal:
    config_digest = hashlib.sha256(msgspec.json.encode(dict(source.config), order="deterministic")).hexdigest()
    fresh = _Journal(source.fingerprint(), config_digest, dtype, form, {})
    path = destination / JOURNAL_NAME
    if not path.exists():
        if any(destination.glob("*.safetensors")):
            _check_replaceable(destination)
        return fresh
    try:
        journal = msgspec.json.decode(path.read_bytes(), type=_Journal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return fresh
    if msgspec.structs.replace(journal, done={}) != fresh:
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
    source: Source,
    outline: Outline,
    destination: Path,
    key: str,
    dtype: str,
    pack: Callable[[str, Mapping[str, Tensor]], dict[str, Tensor]],
    tied: Mapping[str, tuple[str, str]],
    still_needed: int,
) -> _Done:
    """Read a file's tensors, pack and write them; none is held afterwards. tied: those of other files that it has, too."""
    tensors: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for name, shape in sorted(outline.files[key].items()):
        tensors[name] = _read_tensor(source, key, name, tuple(shape), DTYPES[dtype], digest.update)
    for name, (owner, owned) in tied.items():
        tensors[name] = _read_tensor(source, owner, owned, tuple(outline.files[owner][owned]), DTYPES[dtype])
    return _Done(save_file_of(destination, key, pack(key, tensors), still_needed), digest.hexdigest())


def _keep(source: QuantisedSource, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors, with matrices as a source has them. The embedding's stay plain: its rows are looked up."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        matrix = is_matrix(name, tuple(tensor.shape)) and key != "begin"
        kept = source.keep(key, name) if matrix else None
        stem = name.removesuffix("weight")
        found |= (
            {name: tensor} if kept is None else {f"{stem}{suffix}": one.contiguous() for suffix, one in kept.items()}
        )
    return found


def _read_tensor(
    source: Source,
    key: str,
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    note: Callable[[Any], None] = lambda data: None,
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


def _model_id(outline: Outline, journal: _Journal) -> str:
    """Names the source weights and what is computed with them: the same for every dtype and layout that one checkpoint is
    converted to, another where its config asks for another rotation, say."""
    digest = hashlib.sha256(f"swarm model id 2\n{outline.mathematics}\n".encode())
    for key in file_keys(whole(outline.layers)):
        digest.update(f"{key} {journal.done[key].source_digest}\n".encode())
    return digest.hexdigest()[:32]


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

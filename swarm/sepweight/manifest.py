"""sepweight.json: what a sepweight directory holds, file by file (format versions 1 and 2).

Owns the names of files and the manifest's checks against the disk. Knows no tensor values and imports no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import WeightsError
from swarm.parts import Part, part_of, part_of_cells

FORMAT = 1
SCHEME_FORMAT = 2  # of directories whose matrices are not stored plain: what knows only the first must not read them
PLAIN_NAME = "plain"
MANIFEST_NAME = "sepweight.json"
MANIFEST_LIMIT = 64 << 20
TEMPLATE_NAME = "chat_template.jinja"
DOCUMENTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    TEMPLATE_NAME,
)
AGAIN = "copy it from another machine, or convert the checkpoint again"
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # of plain numbers
STORED_BYTES = {**ITEM_BYTES, "int8": 1, "uint8": 1, "int64": 8}


class TensorEntry(msgspec.Struct, frozen=True):
    """dtype and shape of one tensor of a file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        count = STORED_BYTES[self.dtype]
        for size in self.shape:
            count *= size
        return count


class FileEntry(msgspec.Struct, frozen=True):
    """One file of weights: its size, its digest and its tensors by unprefixed name."""

    bytes: int
    sha256: str
    tensors: dict[str, TensorEntry]


class DocumentEntry(msgspec.Struct, frozen=True):
    """A file that came along unchanged: tokenizer, templates, generation settings."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of sepweight.json.

    scheme: how the matrices of layers and of a head of its own are stored; all else is plain, of `dtype`. files: by key
    (`begin`, `mid.00000`, …, `end`). aliases: key → tensor → `key/tensor` that holds the same values.
    """

    format: int
    family: str
    name: str
    model_id: str
    dtype: str
    layers: int
    config: dict[str, Any]
    files: dict[str, FileEntry]
    aliases: dict[str, dict[str, str]] = {}
    documents: dict[str, DocumentEntry] = {}
    scheme: str = PLAIN_NAME

    def resolve(self, key: str, tensor: str) -> tuple[str, str]:
        """The (file key, tensor name) that holds a tensor's values."""
        target = self.aliases.get(key, {}).get(tensor)
        if target is None:
            return key, tensor
        owner, _, name = target.partition("/")
        return owner, name

    def tensor_names(self, key: str) -> list[str]:
        """Every tensor of a file key, aliases included."""
        return [*self.files[key].tensors, *self.aliases.get(key, {})]

    def needed_files(self, part: Part) -> list[str]:
        """Keys of the files that hold the part's tensors; an aliased head needs the embedding's file too."""
        keys = dict.fromkeys(file_keys(part))
        for key in list(keys):
            for tensor in self.aliases.get(key, {}):
                keys[self.resolve(key, tensor)[0]] = None
        return [key for key in keys if self.files[key].tensors]


def file_keys(part: Part) -> list[str]:
    """`begin`, `mid.00000`, …, `end` for the cells of a part."""
    return [
        *(["begin"] if part.begin else []),
        *(layer_key(layer) for layer in part.layers),
        *(["end"] if part.end else []),
    ]


def layer_key(layer: int) -> str:
    return f"mid.{layer:05d}"


def file_name(key: str) -> str:
    return f"{key}.safetensors"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a sepweight directory.

    Raises WeightsError if it is missing, malformed or of another format version.
    """
    path = directory / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{directory} is not a sepweight directory: it has no {MANIFEST_NAME}; "
            f"make one with: swarm-weights convert SRC {directory}"
        ) from None
    if len(data) > MANIFEST_LIMIT:
        raise WeightsError(f"{path} is larger than {MANIFEST_LIMIT} bytes")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path} is not a manifest: {error}") from None
    if manifest.format not in (FORMAT, SCHEME_FORMAT):
        known = f"{FORMAT} and {SCHEME_FORMAT}"
        raise WeightsError(f"{path} has format version {manifest.format}; this program reads versions {known}")
    _check_consistent(path, manifest)
    return manifest


def _check_consistent(path: Path, manifest: Manifest) -> None:
    expected = {"begin", "end", *(layer_key(layer) for layer in range(manifest.layers))}
    if set(manifest.files) != expected:
        odd = sorted(set(manifest.files) ^ expected)[:3]
        raise WeightsError(f"{path}: files do not fit {manifest.layers} layers, look at {', '.join(odd)}")
    if manifest.dtype not in ITEM_BYTES:
        raise WeightsError(f'{path}: dtype "{manifest.dtype}" is none of {", ".join(ITEM_BYTES)}')
    for key, entry in manifest.files.items():
        for name, tensor in entry.tensors.items():
            if tensor.dtype not in STORED_BYTES or any(size < 0 for size in tensor.shape):
                raise WeightsError(f"{path}: {key}/{name} has dtype {tensor.dtype} and shape {list(tensor.shape)}")
    for key, aliases in manifest.aliases.items():
        for tensor in aliases:
            owner, name = manifest.resolve(key, tensor)
            if owner not in manifest.files or name not in manifest.files[owner].tensors:
                raise WeightsError(f"{path}: {key}/{tensor} is an alias of {owner}/{name}, which is not there")
    for name in manifest.documents:
        if name not in DOCUMENTS:
            raise WeightsError(f'{path}: "{name}" is not a document that a sepweight directory may hold')


def write_durably(path: Path, data: bytes) -> None:
    """Write under a temporary name, fsync, rename: a reader sees the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    data = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)
    write_durably(directory / MANIFEST_NAME, data + b"\n")


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sizes(directory: Path, manifest: Manifest, keys: list[str]) -> None:
    """Raise WeightsError, naming the file, unless each is there with the manifest's size."""
    for key in keys:
        path = directory / file_name(key)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing; copy it from a complete sepweight directory") from None
        wanted = manifest.files[key].bytes
        if size != wanted:
            raise WeightsError(f"{path} has {size} bytes, the manifest says {wanted}; copy or convert it again")


def present_keys(directory: Path, manifest: Manifest) -> list[str]:
    """Keys of the files that are there with the right size (a directory may hold only some parts)."""
    found: list[str] = []
    for key, entry in manifest.files.items():
        path = directory / file_name(key)
        if not entry.tensors or (path.is_file() and path.stat().st_size == entry.bytes):
            found.append(key)
    return found


def present_part(directory: Path, manifest: Manifest) -> Part:
    """What can be loaded from here: cells all of whose files are there (a tied head needs the embedding's)."""
    present = set(present_keys(directory, manifest))
    layers = manifest.layers
    return part_of(
        (
            cell
            for cell in range(layers + 2)
            if present.issuperset(manifest.needed_files(part_of_cells(cell, cell + 1, layers)))
        ),
        layers,
    )


def find_faults(directory: Path, manifest: Manifest) -> Iterator[str]:
    """One line for each file or document whose size or digest differs from the manifest's; missing ones are no fault."""
    entries = [(file_name(key), entry.bytes, entry.sha256) for key, entry in manifest.files.items() if entry.tensors]
    entries += [(name, entry.bytes, entry.sha256) for name, entry in manifest.documents.items()]
    for name, size, digest in entries:
        path = directory / name
        if not path.is_file():
            continue
        if path.stat().st_size != size:
            yield f"{path}: {path.stat().st_size} bytes, the manifest says {size}; {AGAIN}"
        elif (actual := sha256_of(path)) != digest:
            yield f"{path}: sha256 {actual}, the manifest says {digest}; {AGAIN}"

"""A GGUF file, or several that are one model: metadata, and where each tensor lies. Everything is checked against the file.

The format's library parses; its reader trusts what it reads, so lengths, counts and places are checked here as it goes.
Imports no torch.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, ReaderField
from gguf.quants import dequantize
from numpy.typing import NDArray

from swarm.errors import WeightsError

SUFFIX = ".gguf"
VERSIONS = (2, 3)
MOST_TENSORS = MOST_FIELDS = 1 << 16
MOST_VALUES = 1 << 22  # of an array: the largest vocabularies have a quarter million tokens
MOST_TEXT = 4 << 20  # bytes of a string
MOST_DIMENSIONS = 4
TYPES = ("F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL").split()
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, and how. shape: as checkpoints have it, [out, in]. type: one of TYPES."""

    path: Path
    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def read(self) -> NDArray[np.uint8]:
        """Its bytes, [rows, bytes of a row]; a vector is one row."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.nbytes)
        if len(data) != self.nbytes:
            raise WeightsError(f"{self.path} has been cut short: {self.name} ends beyond it")
        return np.frombuffer(data, np.uint8).reshape(self.rows, -1)

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Some of its rows as numbers, [rows, in]."""
        return dequantize(np.ascontiguousarray(rows), GGMLQuantizationType[self.type]).reshape(len(rows), -1)


class GgufFile:
    """What a GGUF model says of itself."""

    def __init__(self, path: Path) -> None:
        """path: the file; of a split model any one of its files. Raises WeightsError, with the values that are wrong."""
        self.path = path
        self.paths = _find_parts(path)
        first = _Reader(self.paths[0])
        self.metadata: Mapping[str, Any] = first.values
        self.tensors: Mapping[str, StoredTensor] = dict(first.found)
        for other in self.paths[1:]:
            for name, tensor in _Reader(other).found.items():
                if name in self.tensors:
                    raise WeightsError(f"{other} holds {name}, and so does {self.tensors[name].path}")
                self.tensors = {**self.tensors, name: tensor}
        told = self.metadata.get("split.tensors.count")
        if told is not None and told != len(self.tensors):
            raise WeightsError(f"{path}: its files hold {len(self.tensors)} tensors, the first one says {told}")

    @property
    def architecture(self) -> str:
        """Which mathematics it asks for."""
        told = self.metadata.get("general.architecture")
        if not isinstance(told, str):
            raise WeightsError(f"{self.path}: general.architecture is missing")
        return told

    def vector(self, name: str) -> Sequence[float] | None:
        """The numbers of a small tensor; None without it."""
        tensor = self.tensors.get(name)
        return None if tensor is None else tensor.decode(tensor.read()).reshape(-1).tolist()


def _find_parts(path: Path) -> list[Path]:
    """Every file of a split model, in order."""
    found = _SPLIT.fullmatch(path.name)
    if found is None:
        return [path]
    stem, count = found[1], int(found[3])
    paths = [path.with_name(f"{stem}-{number:05d}-of-{count:05d}{SUFFIX}") for number in range(1, count + 1)]
    missing = [one for one in paths if not one.is_file()]
    if missing or not paths:
        raise WeightsError(f"{path} is one of {count} files; missing: {', '.join(one.name for one in missing[:3])}")
    return paths


class _Reader(GGUFReader):
    """The library's reader, with bounds.

    values: the metadata. found: the tensors, none of which has been read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, StoredTensor] = {}
        _check_head(path)
        try:
            super().__init__(path)
            self.values = {name: field.contents() for name, field in self.fields.items()}
        except WeightsError:
            raise
        except Exception as error:  # the library lets many types through where a file is damaged
            raise WeightsError(f"{path} is a damaged GGUF file: {error}") from None
        finally:
            self.data = np.empty(0, np.uint8)  # no pages of it stay mapped
            self.fields.clear()

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> NDArray[Any]:
        stop = int(offset) + int(count) * np.dtype(dtype).itemsize
        if stop > len(self.data):
            raise WeightsError(f"{self._path} has been cut short: it has {len(self.data):,} bytes and needs {stop:,}")
        return super()._get(int(offset), dtype, count, override_order)

    def _get_str(self, offset: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        length = int(self._get(offset, np.uint64)[0])
        if length > MOST_TEXT:
            raise WeightsError(f"{self._path}: a string of {length:,} bytes at {offset:,}; the limit is {MOST_TEXT:,}")
        return super()._get_str(offset)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            if count > MOST_VALUES:
                raise WeightsError(f"{self._path}: an array of {count:,} values; the limit is {MOST_VALUES:,}")
        return super()._get_field_parts(orig_offs, raw_type)

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        for field in fields:
            tensor = self._place(start_offs, field)
            if tensor.name in self.found:
                raise WeightsError(f"{self._path} holds two tensors of the name {tensor.name}")
            self.found[tensor.name] = tensor

    def _place(self, start: int, field: ReaderField) -> StoredTensor:
        _, name_bytes, _, dims, type_number, offset = field.parts
        name = bytes(name_bytes).decode("utf-8", "replace")
        shape = tuple(reversed(dims.tolist()))
        where = f"{self._path}: {name}"
        if not 1 <= len(shape) <= MOST_DIMENSIONS or not all(0 < size < 1 << 31 for size in shape):
            raise WeightsError(f"{where} has shape {list(shape)}")
        number = int(type_number[0])
        type_name = next((one.name for one in GGMLQuantizationType if one.value == number), f"number {number}")
        if type_name not in TYPES:
            raise WeightsError(f"{where} is of type {type_name}, which is not implemented; known: {', '.join(TYPES)}")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
        if shape[-1] % block:
            raise WeightsError(f"{where}: rows of {shape[-1]} numbers cannot be {type_name}, in blocks of {block}")
        numbers = 1
        for length in shape:
            numbers *= length
        placed = StoredTensor(self._path, name, type_name, shape, start + int(offset[0]), numbers // block * size)
        if placed.offset + placed.nbytes > len(self.data):
            raise WeightsError(
                f"{where} ends at {placed.offset + placed.nbytes:,}, the file at {len(self.data):,}: it has been cut "
                "short; copy it again"
            )
        return placed


def _check_head(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    if len(head) < 24 or head[:4] != b"GGUF":
        raise WeightsError(f"{path} is no GGUF file: it begins with {head[:4]!r}")
    version, tensors, fields = struct.unpack("<IQQ", head[4:])
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise WeightsError(f"{path} has GGUF version {version}; this program reads {known}, little-endian")
    if tensors > MOST_TENSORS or fields > MOST_FIELDS:
        raise WeightsError(
            f"{path} says it has {tensors:,} tensors and {fields:,} fields; the limit of either is {MOST_TENSORS:,}"
        )

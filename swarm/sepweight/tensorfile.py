"""Reads tensors out of one safetensors file, whole or by rows, without mapping the file into memory.

`pread` into a buffer leaves nothing behind once the buffer is freed; a memory map stays in the resident set as long as
the kernel likes. So what will be packed, converted or uploaded is read here, and only what is used in place is mapped.
Format: 8 bytes little-endian header length, a JSON header, then the raw tensors
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import torch
from torch import Tensor

from swarm.errors import WeightsError

HEADER_LIMIT = 100 << 20
PIECE_BYTES = 32 << 20  # 0.1 s of a slow disk
Result = TypeVar("Result")
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
}


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor of any dtype (bfloat16 has no numpy form of its own)."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def finish(reading: Generator[object, None, Result]) -> Result:
    """What a reading returns, without a pause."""
    while True:
        try:
            next(reading)
        except StopIteration as stop:
            return stop.value


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class TensorFile:
    """An open safetensors file. `with TensorFile(path) as file: file.read(name)`."""

    def __init__(self, path: Path) -> None:
        """Raises WeightsError if the file is missing, cut short or malformed."""
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing") from None
        try:
            self.entries, self._data_start = self._read_header()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read_header(self) -> tuple[Mapping[str, _Entry], int]:
        size = os.fstat(self._descriptor).st_size
        length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise WeightsError(f"{self.path} is no safetensors file, or cut short: {size} bytes, header of {length}")
        try:
            header = msgspec.json.decode(os.pread(self._descriptor, length, 8), type=dict[str, msgspec.Raw])
            header.pop("__metadata__", None)
            entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WeightsError(f"{self.path} has a malformed header: {error}") from None
        start = 8 + length
        for name, entry in entries.items():
            self._check(name, entry, size - start)
        return entries, start

    def _check(self, name: str, entry: _Entry, available: int) -> None:
        begin, end = entry.data_offsets
        if entry.dtype not in DTYPES:
            raise WeightsError(f"{self.path}: {name} has dtype {entry.dtype}; supported: {', '.join(DTYPES)}")
        count = DTYPES[entry.dtype].itemsize
        for dimension in entry.shape:
            count *= dimension
        if not 0 <= begin <= end or end - begin != count or any(dimension < 0 for dimension in entry.shape):
            raise WeightsError(f"{self.path}: {name} of shape {list(entry.shape)} has offsets {begin}-{end}")
        if end > available:
            raise WeightsError(f"{self.path} is cut short: {name} ends at byte {end} of {available}")

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._entry(name).dtype]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def _entry(self, name: str) -> _Entry:
        entry = self.entries.get(name)
        if entry is None:
            raise WeightsError(f"{self.path} has no tensor {name}")
        return entry

    def read(self, name: str) -> Tensor:
        """A new CPU tensor with the stored dtype and shape."""
        return finish(self.reading(name))

    def reading(self, name: str, rows: range | None = None) -> Generator[int, None, Tensor]:
        """The same a piece at a time, for a thread that has other work between: yields the bytes of each piece.

        rows: those that are wanted, one behind the other; None: all.
        """
        entry = self._entry(name)
        shape, start = entry.shape, self._data_start + entry.data_offsets[0]
        if rows is not None:
            start += (entry.data_offsets[1] - entry.data_offsets[0]) // shape[0] * rows.start
            shape = (len(rows), *shape[1:])
        tensor = torch.empty(shape, dtype=DTYPES[entry.dtype])
        yield from self._filling(tensor, start)
        return tensor

    def read_rows(self, name: str, rows: list[int]) -> Tensor:
        """The given rows of a matrix, [len(rows), columns], each fetched by one `pread`."""
        entry = self._entry(name)
        _, columns = entry.shape
        tensor = torch.empty((len(rows), columns), dtype=DTYPES[entry.dtype])
        row_bytes = columns * tensor.element_size()
        for index, row in enumerate(rows):
            finish(self._filling(tensor[index], self._data_start + entry.data_offsets[0] + row * row_bytes))
        return tensor

    def _filling(self, tensor: Tensor, offset: int) -> Generator[int]:
        if tensor.numel() == 0:
            return
        view = bytes_of(tensor)
        while view:
            count = os.preadv(self._descriptor, [view[:PIECE_BYTES]], offset)
            if count == 0:
                raise WeightsError(f"{self.path} is cut short at byte {offset}")
            view, offset = view[count:], offset + count
            yield count

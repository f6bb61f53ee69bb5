"""Hidden states of many texts between two layers, in memory or on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from swarm.errors import RequestError
from swarm.sepweight.tensorfile import bytes_of
from swarm.sizes import format_size

NOTHING = -1  # layers done: not even the embedding


class Rows(Protocol):
    """Hidden states by piece. What is written is read from the next layer on."""

    @property
    def done(self) -> int:
        """How many layers they have been through; NOTHING before they are there at all."""
        ...

    def read(self, piece: int) -> Tensor:
        """[tokens, hidden]. Raises RequestError."""
        ...

    def write(self, piece: int, hidden: Tensor) -> None:
        """Raises RequestError."""
        ...

    def end_layer(self) -> None:
        """All have been written."""
        ...


class RowsInMemory:
    """As long as the process lives."""

    def __init__(self, pieces: int) -> None:
        self.done = NOTHING
        self._hidden = [torch.empty(0)] * pieces

    def read(self, piece: int) -> Tensor:
        return self._hidden[piece]

    def write(self, piece: int, hidden: Tensor) -> None:
        self._hidden[piece] = hidden

    def end_layer(self) -> None:
        self.done += 1


class RowsOnDisk:
    """In a file that has each twice: as the last layer left them, and as the one at work makes them."""

    def __init__(
        self,
        path: Path,
        lengths: Sequence[int],
        width: int,
        dtype: torch.dtype,
        done: int,
        note: Callable[[int], None] = lambda done: None,
    ) -> None:
        """lengths: tokens of each piece. width: of a hidden state. done: layers that what the file holds has been through.

        note: called with how many those are by now. Raises RequestError if there is no room.
        """
        self._note = note
        self.path = path
        self._width = width
        self._dtype = dtype
        self._starts = [0]
        for length in lengths:
            self._starts.append(self._starts[-1] + length * width * dtype.itemsize)
        size = 2 * self._starts[-1]
        self.done = done if path.exists() and path.stat().st_size == size else NOTHING
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise RequestError(f"{path} cannot be made: {_explain(error, size)}") from None

    def read(self, piece: int) -> Tensor:
        start, stop = self._starts[piece], self._starts[piece + 1]
        hidden = torch.empty((stop - start) // (self._width * self._dtype.itemsize), self._width, dtype=self._dtype)
        view, place = bytes_of(hidden), self._region(self.done) + start
        while view:
            count = self._try(lambda view=view, place=place: os.preadv(self._descriptor, [view], place))
            if not count:
                raise RequestError(f"{self.path} is cut short; remove it, and the same command begins again")
            view, place = view[count:], place + count
        return hidden

    def write(self, piece: int, hidden: Tensor) -> None:
        view, place = bytes_of(hidden.contiguous()), self._region(self.done + 1) + self._starts[piece]
        while view:
            count = self._try(lambda view=view, place=place: os.pwrite(self._descriptor, view, place))
            view, place = view[count:], place + count

    def end_layer(self) -> None:
        self._try(lambda: os.fdatasync(self._descriptor))
        self.done += 1
        self._note(self.done)

    def remove(self) -> None:
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)

    def _region(self, done: int) -> int:
        return done % 2 * self._starts[-1]

    def _try(self, run: Callable[[], int | None]) -> int:
        try:
            return run() or 0
        except OSError as error:
            raise RequestError(f"{self.path}: {_explain(error, 2 * self._starts[-1])}") from None


def _explain(error: OSError, size: int) -> str:
    if error.errno != errno.ENOSPC:
        return f"{error.strerror}; the same command goes on where this ended"
    return (
        f"the disk is full, and hidden states take {format_size(size)}; make room, or pass --spill DIR on another disk; the "
        "same command goes on where this ended"
    )

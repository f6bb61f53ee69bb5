"""Layers as this machine's kernels read them, a file each: what is streamed, in place of reordering it each time.

Such a file is bytes of one buffer and says nothing of itself. Its name holds a digest of all that it depends on: the weights
it was made of, the form, torch and the processor. One is never trusted for being there: the first is compared with what is
made anew, and all are made again where it differs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from swarm.decoder.buffer import LayerBuffer
from swarm.decoder.direct import DIRECT_STEP, DirectFile
from swarm.errors import WeightsError
from swarm.sizes import format_size

FOLDER = "packed"  # in a sepweight directory


class PackedLayers:
    """The packed layers of one model in one form."""

    def __init__(self, directory: Path, made_of: Mapping[int, str], facts: Mapping[str, str]) -> None:
        """directory: of the weights. made_of: what each layer's file depends on. facts: what all do.

        Raises WeightsError if nothing can be written there.
        """
        self._folder = directory / FOLDER
        self._names = {
            number: f"{number:05d}.{_digest({**facts, 'made of': source})}" for number, source in made_of.items()
        }
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise WeightsError(
                f"{self._folder} cannot be made: {error.strerror}; streaming needs room there for the layers that it reads"
            ) from None

    def path(self, number: int) -> Path:
        return self._folder / self._names[number]

    def has(self, number: int, buffer: LayerBuffer) -> bool:
        """Whether there is a file of the right length."""
        try:
            return self.path(number).stat().st_size == len(buffer.memory.view)
        except OSError:
            return False

    def matches(self, number: int, buffer: LayerBuffer) -> bool:
        """Whether the file of a layer holds what is in a buffer."""
        expected = bytes(buffer.memory.view)
        with DirectFile(self.path(number)) as file:
            file.read_into(buffer.memory.view)
        is_same = bytes(buffer.memory.view) == expected
        buffer.memory.view[:] = expected
        return is_same

    def drop(self) -> None:
        """Remove all files, to make them again."""
        for number in self._names:
            self.path(number).unlink(missing_ok=True)

    def write(self, number: int, buffer: LayerBuffer) -> None:
        """Keep what is in a buffer; whole or not at all. Raises WeightsError if it cannot be written."""
        size = len(buffer.memory.view)
        assert size % DIRECT_STEP == 0
        unfinished = self._folder / f"{self._names[number]}.{os.getpid()}.unfinished"
        try:
            with unfinished.open("wb") as file:
                file.write(buffer.memory.view)
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            unfinished.replace(self.path(number))
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise WeightsError(
                f"{self.path(number)} cannot be written: {error.strerror}; each streamed layer takes {format_size(size)}"
            ) from None


def _digest(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

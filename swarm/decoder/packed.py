"""Layers as this machine's kernels read them, a file each: what is streamed, in place of reordering it each time.

Such a file is the bytes of a buffer and says nothing of itself. Its name holds a digest of all that it depends on (the
weights it was made of, the form, the layout, torch and the processor) and one of its bytes. None is trusted for being there:
what the first holds is compared with what is made anew, and all are made again where it differs; each is compared with its
digest when it is first read, and now and then afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from swarm.decoder.direct import DIRECT_STEP, DirectFile, Pace
from swarm.decoder.packed_folder import FOLDER
from swarm.errors import WeightsError
from swarm.sizes import format_size

CHECKED_READS = 100  # one of so many is compared with its digest
LAYOUT = "3"  # another one wherever the same weights come to lie otherwise in a layer's buffer


class PackedLayers:
    """The packed layers of one model in one form."""

    def __init__(self, directory: Path, made_of: Mapping[int, str], facts: Mapping[str, str]) -> None:
        """directory: of the weights. made_of: what each layer's file depends on. facts: what all do.

        Raises WeightsError if nothing can be kept there.
        """
        self._folder = directory / FOLDER
        self._names = {
            number: f"{number:05d}.{_digest_of_facts({**facts, 'layout': LAYOUT, 'made of': source})}"
            for number, source in made_of.items()
        }
        try:
            self._folder.mkdir(exist_ok=True)
            by_name = {path.stem: path for path in sorted(self._folder.iterdir())}
        except OSError as error:
            raise WeightsError(
                f"{self._folder} cannot be used: {error.strerror}; streamed layers are kept there, ready to be read"
            ) from None
        self._paths = {number: by_name[name] for number, name in self._names.items() if name in by_name}

    def has(self, number: int, size: int) -> bool:
        """Whether there is a file of the right length."""
        try:
            return number in self._paths and self._paths[number].stat().st_size == size
        except OSError:
            return False

    def is_like(self, number: int, data: memoryview) -> bool:
        """Whether a layer's file was made of these very bytes."""
        return self._paths[number].suffix == f".{_digest(data)}"

    def drop(self, numbers: Iterable[int]) -> None:
        """Remove the files of some layers, to make them again."""
        for number in numbers:
            if number in self._paths:
                self._paths.pop(number).unlink(missing_ok=True)

    def write(self, number: int, data: memoryview) -> None:
        """Keep what a layer's buffer holds; whole or not at all. Raises WeightsError if it cannot be written."""
        assert len(data) % DIRECT_STEP == 0
        unfinished = self._folder / f"{self._names[number]}.{os.getpid()}.unfinished"
        path = self._folder / f"{self._names[number]}.{_digest(data)}"
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise WeightsError(
                f"{path} cannot be written: {error.strerror}; each streamed layer takes {format_size(len(data))}"
            ) from None
        self._paths[number] = path

    def open(self, number: int, open_file: Callable[[Path], DirectFile]) -> PackedFile:
        """A layer's file. Raises WeightsError if it cannot be opened."""
        return PackedFile(open_file(self._paths[number]))


class PackedFile:
    """A packed layer, open for reading again and again."""

    def __init__(self, file: DirectFile) -> None:
        self._file = file
        self._reads = 0

    @property
    def size(self) -> int:
        return self._file.size

    def read_into(self, memory: memoryview, pace: Pace) -> None:
        """All of it, as DirectFile does; what is compared with its digest is there when all of it is.

        One that is damaged is removed and made again at the next start. Raises WeightsError.
        """
        is_checked = self._reads % CHECKED_READS == 0
        self._file.read_into(memory, (lambda _, stop: pace(0, stop)) if is_checked else pace)
        if is_checked:
            if self._file.path.suffix != f".{_digest(memory)}":
                self._file.path.unlink(missing_ok=True)
                raise WeightsError(
                    f"{self._file.path} was damaged and is removed; restart the node to have it made again"
                )
            pace(self.size, self.size)
        self._reads += 1

    def close(self) -> None:
        self._file.close()


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of_facts(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

"""Reads what has been loaded once more, behind it, and compares it with the manifest's digests. A thread of its own.

A flipped byte in a weights file is a wrong answer that nobody notices. Reading is mostly from memory (the file has just been
loaded), hashing leaves the interpreter free, and the thread is the last to get a core.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from swarm.models import ModelKey
from swarm.node.compute.loader import make_nice
from swarm.node.events import Event, WeightsDamaged
from swarm.parts import Part

PIECE_BYTES = 8 << 20

log = logging.getLogger(__name__)


class FileToVerify(Struct, frozen=True):
    """A file of weights and what it should hold. part: what cannot be served without it."""

    path: Path
    sha256: str
    part: Part


class Catalogue(Protocol):
    """Which files a part is made of."""

    def files_of(self, part: Part) -> list[FileToVerify]: ...


class Verifier:
    """Checks the files of parts that have been loaded, each once as long as it does not change."""

    def __init__(self, catalogues: Mapping[ModelKey, Catalogue], post: Callable[[Event], None]) -> None:
        self._catalogues = catalogues
        self._post = post
        self._parts: queue.SimpleQueue[tuple[ModelKey, Part] | None] = queue.SimpleQueue()
        self._known: dict[Path, tuple[int, int]] = {}  # size and time of change of files found whole
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="verifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def verify(self, model: ModelKey, part: Part) -> None:
        """A part has been loaded."""
        self._parts.put((model, part))

    def stop(self) -> None:
        """End soon; it does not wait."""
        self._is_over.set()
        self._parts.put(None)

    def _work(self) -> None:
        make_nice()
        while (loaded := self._parts.get()) is not None:
            model, part = loaded
            catalogue = self._catalogues.get(model)
            for file in [] if catalogue is None else catalogue.files_of(part):
                try:
                    self._check(model, file)
                except OSError as error:
                    log.warning("cannot be verified file=%s error=%s", file.path, error)

    def _check(self, model: ModelKey, file: FileToVerify) -> None:
        status = file.path.stat()
        if self._known.get(file.path) == (status.st_size, status.st_mtime_ns):
            return
        digest = hashlib.sha256()
        with file.path.open("rb") as opened:
            while piece := opened.read(PIECE_BYTES):
                if self._is_over.is_set():
                    return
                digest.update(piece)
        if digest.hexdigest() == file.sha256:
            self._known[file.path] = status.st_size, status.st_mtime_ns
        else:
            self._post(WeightsDamaged(model, file.part, str(file.path), digest.hexdigest(), file.sha256))

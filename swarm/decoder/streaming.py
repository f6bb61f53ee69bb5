"""Layers that come from disk while others compute: a thread reads ahead into buffers, one layer is lent at a time."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from swarm.decoder.buffer import LayerBuffer
from swarm.decoder.direct import Tick
from swarm.decoder.layer import Layer
from swarm.decoder.ring import Ring
from swarm.errors import SwarmError, WeightsError

STOP_SECONDS = 5.0  # until one that reads has seen that it is to stop: a piece of a slow disk
LOOK_SECONDS = 0.5  # between two signs of life of whoever waits for a layer


class Readable(Protocol):
    """What is read into a buffer again and again."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read_into(self, memory: memoryview, on_piece: Tick) -> None:
        """All of it. on_piece: called after each piece. Raises WeightsError."""
        ...

    def close(self) -> None: ...


class StreamedLayers:
    """Some layers of a decoder, of which as many are in memory as there are buffers."""

    def __init__(self, files: Mapping[int, Readable], buffers: Sequence[LayerBuffer]) -> None:
        """files: by number of layer, what is read into a buffer. buffers: at least one; what they hold is read anew."""
        self._reading = _Reading(files, buffers)
        thread = threading.Thread(target=self._reading.run, name="streamer", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, self._reading, thread)  # at the process' end at the latest

    @property
    def numbers(self) -> Sequence[int]:
        return self._reading.numbers

    @property
    def buffers(self) -> Sequence[LayerBuffer]:
        return self._reading.buffers

    @property
    def waited_seconds(self) -> float:
        """That layers were waited for, in all."""
        return self._reading.waited_seconds

    @property
    def bytes_a_second(self) -> float:
        """Of what is read, while something is; 0 before the first layer."""
        return self._reading.bytes_a_second

    def end(self) -> None:
        """Read nothing any more: somebody else takes the buffers over. Raises WeightsError if a disk does not let go."""
        if self._stop() is False:
            raise WeightsError(f"a disk has not answered for {STOP_SECONDS:.0f} seconds")

    @contextmanager
    def lend(self, number: int, on_read: Tick = lambda: None) -> Generator[Layer]:
        """A layer, for as long as it is used. on_read: called now and then while it is waited for, if something is read.

        Raises WeightsError if it cannot be read.
        """
        place = self._reading.take(number, on_read)
        layer = self._reading.buffers[place].layer
        layer.renumber(number)
        try:
            yield layer
        finally:
            self._reading.free(place)


def _stop(reading: _Reading, thread: threading.Thread) -> bool:
    """Whether the thread has ended: one that still reads while the interpreter ends would abort it."""
    reading.stop()
    thread.join(STOP_SECONDS)
    return not thread.is_alive()


class _Stopped(Exception):  # noqa: N818  it is no error
    """Nobody wants what is being read."""


class _Reading:
    """What the thread and whoever computes share. The thread holds no reference to StreamedLayers: it ends with those."""

    def __init__(self, files: Mapping[int, Readable], buffers: Sequence[LayerBuffer]) -> None:
        self.numbers = sorted(files)
        self.buffers = buffers
        self.waited_seconds = self.bytes_a_second = 0.0
        self._files = files
        self._ring = Ring(self.numbers, len(buffers))
        self._changed = threading.Condition()
        self._error: SwarmError | None = None
        self._is_over = False
        self._pieces = 0  # that have been read

    def take(self, number: int, on_read: Tick) -> int:
        start, seen = time.perf_counter(), self._pieces
        with self._changed:
            while (place := self._ring.take(number)) is None:
                if self._error is not None:
                    raise self._error
                self._changed.notify_all()  # the ring may have been told to begin elsewhere
                self._changed.wait(LOOK_SECONDS)
                if self._pieces != seen:  # a disk that says nothing is to look like a node that hangs
                    seen = self._pieces
                    on_read()
        self.waited_seconds += time.perf_counter() - start
        return place

    def free(self, place: int) -> None:
        with self._changed:
            self._ring.free(place)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._is_over = True
            self._error = self._error or WeightsError("layers are no longer read")
            self._changed.notify_all()

    def run(self) -> None:
        try:
            while (order := self._wait_for_order()) is not None:
                place, number = order
                start = time.perf_counter()
                self._files[number].read_into(self.buffers[place].memory.view, self._note_piece)
                self._note_rate(self._files[number].size / (time.perf_counter() - start))
                with self._changed:
                    self._ring.have_read(place)
                    self._changed.notify_all()
        except _Stopped:
            pass
        except SwarmError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            for file in self._files.values():
                file.close()

    def _wait_for_order(self) -> tuple[int, int] | None:
        """What to read next; None when nothing is wanted any more."""
        with self._changed:
            while not self._is_over:
                order = self._ring.next_read()
                if order is not None:
                    return order
                self._changed.wait()
        return None

    def _note_piece(self) -> None:
        self._pieces += 1
        if self._is_over:
            raise _Stopped

    def _note_rate(self, measured: float) -> None:
        self.bytes_a_second = measured if not self.bytes_a_second else 0.8 * self.bytes_a_second + 0.2 * measured

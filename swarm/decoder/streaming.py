"""Layers that come from disk while others compute: a thread reads ahead into buffers, one layer is lent at a time.

A layer is lent as soon as it begins to come, and is read over as far as it has been used: one buffer keeps a disk busy.
"""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from swarm.decoder.buffer import LayerBuffer, Layout
from swarm.decoder.direct import Pace, Tick
from swarm.decoder.layer import Layer
from swarm.decoder.ring import Ring
from swarm.errors import WeightsError

Found = TypeVar("Found")

STOP_SECONDS = 5.0  # until one that reads has seen that it is to stop: a piece of a slow disk
LATE_SECONDS = 0.001  # a layer that was waited for no longer was there in time
LOOK_SECONDS = 0.5  # between two signs of life of whoever waits for a layer


@dataclass(frozen=True, slots=True)
class Reads:
    """What has been read so far.

    waited_seconds: that it was waited for. bytes_a_second: of what is read, while something is; 0 before the first layer.
    lent: how many layers have been used; late: of these, how many were waited for.
    """

    waited_seconds: float = 0.0
    bytes_a_second: float = 0.0
    lent: int = 0
    late: int = 0


class Readable(Protocol):
    """What is read into a buffer again and again."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read_into(self, memory: memoryview, pace: Pace) -> None:
        """All of it, a piece at a time. Raises WeightsError."""
        ...

    def close(self) -> None: ...


class StreamedLayers:
    """Some layers of a decoder, of which as many are in memory as there are buffers."""

    def __init__(
        self, files: Mapping[int, Readable], kinds: Mapping[int, Hashable], buffers: Sequence[LayerBuffer]
    ) -> None:
        """files: by number of layer, what is read into a buffer; kinds: of layer. buffers: at least one, for all of these.

        What they hold is read anew.
        """
        self._reading = _Reading(files, kinds, buffers)
        thread = threading.Thread(target=self._reading.run, name="streamer", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, self._reading, thread)  # at the process' end at the latest

    @property
    def numbers(self) -> Sequence[int]:
        return self._reading.numbers

    @property
    def pass_bytes(self) -> int:
        """That are read each time all of them are needed."""
        return self._reading.pass_bytes

    @property
    def buffers(self) -> Sequence[LayerBuffer]:
        return self._reading.buffers

    @property
    def reads(self) -> Reads:
        reading = self._reading
        return Reads(reading.waited_seconds, reading.bytes_a_second, reading.lent, reading.late)

    def end(self) -> None:
        """Read nothing any more: somebody else takes the buffers over. Raises WeightsError if a disk does not let go."""
        if self._stop() is False:
            raise WeightsError(f"a disk has not answered for {STOP_SECONDS:.0f} seconds")

    @contextmanager
    def lend(self, number: int, runs: int, on_read: Tick = lambda: None) -> Generator[Layer]:
        """A layer, for as long as it is used; what it computes with is waited for when it does.

        runs: how often it will be run. on_read: called now and then while something is waited for, if something is read.
        Raises WeightsError if it cannot be read, here or while it computes.
        """
        waited = self._reading.waited_seconds
        place = self._reading.take(number, on_read)
        try:
            use = _Use(self._reading, place, number, runs, on_read)
            with self._reading.layout(place, number).watched(use) as layer:
                layer.renumber(number)
                yield layer
        finally:
            self._reading.free(place)
            self._reading.lent += 1
            self._reading.late += self._reading.waited_seconds - waited > LATE_SECONDS


class _Use:
    """Watches a layer that is lent."""

    def __init__(self, reading: _Reading, place: int, number: int, runs: int, on_read: Tick) -> None:
        self._reading = reading
        self._place = place
        self._bounds = reading.layout(place, number).bounds
        self._crossing = reading.buffers[place].crossing
        self._runs = runs
        self._on_read = on_read
        self._done: Counter[int] = Counter()  # by section, how often it has computed

    def begin(self, section: int) -> None:
        self._reading.wait(self._place, section, self._on_read)
        if self._crossing is not None:
            self._crossing.begin(section)

    def end(self, section: int) -> None:
        self._done[section] += 1
        if self._done[section] == self._runs:
            if self._crossing is not None:
                self._crossing.end(*self._bounds[section : section + 2])
            self._reading.use_up(self._place, section)


def _stop(reading: _Reading, thread: threading.Thread) -> bool:
    """Whether the thread has ended: one that still reads while the interpreter ends would abort it."""
    reading.stop()
    thread.join(STOP_SECONDS)
    return not thread.is_alive()


class _Stopped(Exception):  # noqa: N818  it is no error
    """Nobody wants what is being read."""


class _Reading:
    """What the thread and whoever computes share. The thread holds no reference to StreamedLayers: it ends with those."""

    def __init__(
        self, files: Mapping[int, Readable], kinds: Mapping[int, Hashable], buffers: Sequence[LayerBuffer]
    ) -> None:
        self.numbers = sorted(files)
        self.buffers = buffers
        self.waited_seconds = self.bytes_a_second = 0.0
        self.lent = self.late = 0
        self.pass_bytes = sum(file.size for file in files.values()) if len(files) > len(buffers) else 0
        self._files = files
        self._kinds = kinds
        sections = len(self.layout(0, self.numbers[0]).bounds) - 1
        self._ring = Ring(self.numbers, len(buffers), sections)
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._is_over = False
        self._pieces = 0  # that have been read
        self._held_up_seconds = 0.0  # that reading waited until something was used up
        self._began = 0.0  # to read the layer at hand, on a clock that stands still meanwhile

    def layout(self, place: int, number: int) -> Layout:
        """How a layer lies in a buffer."""
        return self.buffers[place].layouts[self._kinds[number]]

    def take(self, number: int, on_read: Tick) -> int:
        """Where a layer comes, from now on used."""
        return self._wait_for(lambda: None if self._is_over else self._ring.take(number), on_read)

    def wait(self, place: int, section: int, on_read: Tick) -> None:
        """Until a section is there."""
        if not self._ring.has(place, section):
            self._wait_for(lambda: self._ring.has(place, section) or None, on_read)

    def _wait_for(self, find: Callable[[], Found | None], on_read: Tick) -> Found:
        start, seen = time.perf_counter(), self._pieces
        with self._changed:
            while (found := find()) is None:
                if self._error is not None:
                    raise self._error
                self._changed.notify_all()  # the ring may have been told to begin elsewhere
                self._changed.wait(LOOK_SECONDS)
                if self._pieces != seen:  # a disk that says nothing is to look like a node that hangs
                    seen = self._pieces
                    on_read()
        self.waited_seconds += time.perf_counter() - start
        return found

    def use_up(self, place: int, section: int) -> None:
        with self._changed:
            self._ring.use_up(place, section)
            self._changed.notify_all()

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
                self._began = time.perf_counter() - self._held_up_seconds
                memory = self.buffers[place].bytes_of(self._kinds[number])
                self._files[number].read_into(memory, partial(self._pace, place, number))
        except _Stopped:
            pass
        except Exception as error:  # whatever a card says concerns whoever waits for it
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            for file in self._files.values():
                file.close()
            for buffer in self.buffers:
                if buffer.crossing is not None:
                    buffer.crossing.settle()  # its memory may be somebody else's next

    def _wait_for_order(self) -> tuple[int, int] | None:
        """What to read next; None when nothing is wanted any more."""
        with self._changed:
            while not self._is_over:
                order = self._ring.next_read()
                if order is not None:
                    return order
                self._changed.wait()
        return None

    def _pace(self, place: int, number: int, done: int, stop: int) -> None:
        """So many bytes of a layer are there; wait until those up to `stop` may be written over."""
        self._pieces += 1
        bounds = self.layout(place, number).bounds
        crossing = self.buffers[place].crossing
        if crossing is not None:
            crossing.send(done, bounds)
        size = self._files[number].size
        if done == size:
            self._note_rate(size / (time.perf_counter() - self._held_up_seconds - self._began))
        with self._changed:
            self._ring.have_read(place, bisect_right(bounds, done) - 1)
            self._changed.notify_all()
            start = time.perf_counter()
            while not (self._is_over or self._may_write(place, stop)):
                self._changed.wait()
            self._held_up_seconds += time.perf_counter() - start
        if self._is_over:
            raise _Stopped

    def _may_write(self, place: int, stop: int) -> bool:
        used = self._ring.gives_way(place)
        if used is None:
            return True
        bounds = self.layout(place, used).bounds
        return self._ring.may_write(place, min(bisect_left(bounds, stop), len(bounds) - 1))

    def _note_rate(self, measured: float) -> None:
        self.bytes_a_second = measured if not self.bytes_a_second else 0.8 * self.bytes_a_second + 0.2 * measured

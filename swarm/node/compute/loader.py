"""Loader threads: they read parts while the compute thread computes, and hand over what they are made of.

While a node of this machine computes, they get a core only where nobody else wants one: an answer that runs meanwhile should
hardly notice. While none does, they take their share like any program, or on a busy machine they would never end. So torch
is imported there, too. What has to be timed is made on the compute thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.models import ModelKey
from swarm.node.compute.protocol import DeviceLost, Engine, EngineLoader, MakeEngine
from swarm.node.events import ComputeEnded, Event, PartFailed, PartProgress
from swarm.node.residence import Residence
from swarm.parts import Part

PROGRESS_SECONDS = 0.2
LOOK_SECONDS = 0.3  # before torch is imported, which cannot be interrupted
RECENT_SECONDS = 1.0  # a batch as short ago as that means an answer under way

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """A part to be loaded. old: the engine that serves meanwhile. is_wanted: until something else is asked for."""

    model: ModelKey
    part: Part
    residence: Residence
    old: Engine | None
    is_wanted: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Built:
    """A load is done: `make` makes the engine."""

    order: LoadOrder
    make: MakeEngine


class Traffic:
    """Whether answers are under way on this machine, from looks at its cores. Pure."""

    def __init__(self) -> None:
        self._used_at = float("-inf")

    def note(self, are_used: bool, now: float) -> bool:
        """After one more look."""
        if are_used:
            self._used_at = now
        return now - self._used_at <= RECENT_SECONDS


class LoaderThreads:
    """Loads one part after another, each on a thread of its own.

    A thread that has ended has no team of OpenMP threads any more; as long as there are more of those than cores, the teams
    that compute spin less while they wait, and decode 15% slower. Nor can a thread that yielded to everybody take its share
    again, nor one that it starts: what is left is carried on by another one, which a thread that never yields has started.
    """

    def __init__(
        self,
        make_loader: Callable[[], EngineLoader],
        post: Callable[[Event], None],
        hand_over: Callable[[Built], None],
        are_cores_used: Callable[[], bool] = lambda: False,
    ) -> None:
        """make_loader: called on the first thread, for it may take seconds. are_cores_used: by nodes of this machine."""
        self._make_loader = make_loader
        self._post = post
        self._hand_over = hand_over
        self._are_cores_used = are_cores_used
        self._traffic = Traffic()
        self._loader: EngineLoader | None = None
        self._told_at = float("-inf")  # of how far a load is
        self._last = threading.Event()  # set when what was ordered last is done
        self._to_start: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def start(self) -> None:
        threading.Thread(target=self._start_threads, name="loaders", daemon=True).start()
        self._start(self._prepare, self._last)

    def load(self, order: LoadOrder) -> None:
        """After what was ordered before; from one thread."""
        before, self._last = self._last, threading.Event()
        self._start(self._follow, order, before, self._last)

    def trim(self) -> None:
        """Give memory that nothing uses back to the system; from any thread."""
        if self._loader is not None:
            self._loader.trim()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._to_start.put(threading.Thread(target=work, args=arguments, name="loader", daemon=True))

    def _start_threads(self) -> None:
        while True:
            self._to_start.get().start()

    def _has_traffic(self) -> bool:
        return self._traffic.note(self._are_cores_used(), time.monotonic())

    def _prepare(self, done: threading.Event) -> None:
        until = time.monotonic() + LOOK_SECONDS
        while not (has_traffic := self._has_traffic()) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS / 10)
        if has_traffic:
            make_nice()
        try:
            self._loader = self._make_loader()
        except Exception as error:  # without it the node is of no use: it ends, and others hear of it
            log.exception("no loader")
            self._post(ComputeEnded(f"{type(error).__name__}: {error}"))
        done.set()

    def _follow(self, order: LoadOrder, before: threading.Event, done: threading.Event) -> None:
        before.wait()
        if self._loader is None:
            done.set()
        else:
            self._carry_on(order, iter(self._loader.load(order.model, order.part, order.residence, order.old)), done)

    def _carry_on(
        self, order: LoadOrder, pieces: Iterator[tuple[int, int] | MakeEngine], done: threading.Event
    ) -> None:
        """Load piece by piece; where this thread has begun to yield and need not any more, another one goes on."""
        is_yielding = False
        is_whole = False
        try:
            for piece in pieces:
                if not order.is_wanted():
                    break
                is_whole = not isinstance(piece, tuple)
                self._tell(order, piece)
                has_traffic = self._has_traffic()
                if has_traffic and not is_yielding:
                    make_nice()
                    is_yielding = True
                elif is_yielding and not has_traffic:
                    self._start(self._carry_on, order, pieces, done)
                    return
        except SwarmError as error:
            self._fail(order, str(error))
        except DeviceLost as error:
            log.exception("the device is lost")
            self._post(ComputeEnded(f"{type(error).__name__}: {error}"))
        except Exception as error:
            log.exception("loading failed model=%s", order.model)
            self._fail(order, f"{type(error).__name__}: {error}")
        if not is_whole:  # what has been read is of no use
            if isinstance(pieces, Generator):
                pieces.close()
            self.trim()
        done.set()

    def _tell(self, order: LoadOrder, piece: tuple[int, int] | MakeEngine) -> None:
        if not isinstance(piece, tuple):
            self._hand_over(Built(order, piece))
        elif time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self._post(PartProgress(order.model, *piece))

    def _fail(self, order: LoadOrder, message: str) -> None:
        if order.is_wanted():
            self._post(PartFailed(order.model, message))


def make_nice() -> None:
    """Let the calling thread have a core only where nobody else wants it.

    Its team of threads likewise. Not by niceness: a thread of niceness 19 keeps its core for milliseconds when another wants
    it, and a team that computes waits for each other at every barrier (a running answer: 0.65 of its speed, here 0.85).
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

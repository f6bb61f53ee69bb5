"""Loader threads: they read parts while the compute thread computes, and hand over what they are made of.

It gets a core only where nobody else wants one: an answer that runs meanwhile, here or in another process, should hardly
notice. So it imports torch, too. What has to be timed is made on the compute thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.node.compute.protocol import Engine, EngineLoader, MakeEngine
from swarm.node.events import ComputeEnded, Event, PartFailed, PartProgress
from swarm.parts import Part

PROGRESS_SECONDS = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """A part to be loaded. old: the engine that serves meanwhile. is_wanted: until something else is asked for."""

    model: str
    part: Part
    old: Engine | None
    is_wanted: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Built:
    """A load is done: `make` makes the engine."""

    order: LoadOrder
    make: MakeEngine


class LoaderThreads:
    """Loads one part after another, each on a thread of its own.

    A thread that has ended has no team of OpenMP threads any more; as long as there are more of those than cores, the teams
    that compute spin less while they wait, and decode 15% slower.
    """

    def __init__(
        self,
        make_loader: Callable[[], EngineLoader],
        post: Callable[[Event], None],
        hand_over: Callable[[Built], None],
    ) -> None:
        """make_loader: called on the first thread, for it may take seconds."""
        self._make_loader = make_loader
        self._post = post
        self._hand_over = hand_over
        self._loader: EngineLoader | None = None
        self._told_at = float("-inf")  # of how far a load is
        self._last = threading.Thread(target=self._prepare, name="loader", daemon=True)

    def start(self) -> None:
        self._last.start()

    def load(self, order: LoadOrder) -> None:
        """After what was ordered before; from one thread."""
        self._last = threading.Thread(target=self._follow, args=(order, self._last), name="loader", daemon=True)
        self._last.start()

    def _prepare(self) -> None:
        make_nice()
        try:
            self._loader = self._make_loader()
        except Exception as error:  # without it the node is of no use: it ends, and others hear of it
            log.exception("no loader")
            self._post(ComputeEnded(f"{type(error).__name__}: {error}"))

    def _follow(self, order: LoadOrder, before: threading.Thread) -> None:
        before.join()
        if self._loader is None:
            return
        make_nice()
        try:
            self._load(self._loader, order)
        except SwarmError as error:
            self._fail(order, str(error))
        except Exception as error:
            log.exception("loading failed model=%s", order.model)
            self._fail(order, f"{type(error).__name__}: {error}")

    def _load(self, loader: EngineLoader, order: LoadOrder) -> None:
        for piece in loader.load(order.model, order.part, order.old):
            if not order.is_wanted():
                return
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

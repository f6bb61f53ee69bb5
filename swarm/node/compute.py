"""The compute thread: owns every engine and runs what it is given, one job after another.

Its tick moves after each layer, after each piece of a tensor that is loaded, and while it is idle; a tick that stands still
means that it is stuck.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.node.effects import Forget, Load, Run, Unload
from swarm.node.machine import BatchDone, BatchFailed, ComputeEnded, Event, PartFailed, PartLoaded, PartProgress
from swarm.node.work import Engine, EngineLoader

IDLE_TICK_SECONDS = 0.5
PROGRESS_SECONDS = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


Job = Run | Forget | Load | Unload


class ComputeThread:
    """Runs jobs in order and posts what came of them."""

    def __init__(
        self,
        make_loader: Callable[[Callable[[], None]], EngineLoader],
        post: Callable[[Event], None],
    ) -> None:
        """make_loader: builds the loader on the thread itself (torch is imported there), given the tick."""
        self.tick = 0
        self._make_loader = make_loader
        self._post = post
        self._told_at = float("-inf")  # of how far a load is
        self._jobs: queue.SimpleQueue[Job | _Stop] = queue.SimpleQueue()
        self._engines: dict[str, Engine] = {}
        self._loading: dict[str, Iterator[tuple[int, int] | Engine]] = {}
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def give(self, job: Job) -> None:
        self._jobs.put(job)

    @property
    def caches(self) -> int:
        """How many the engines hold."""
        return sum(len(engine.cached) for engine in list(self._engines.values()))

    def stop(self) -> None:
        """Ask the thread to end; it does not wait for a step that is stuck."""
        self._jobs.put(_Stop())
        self._thread.join(timeout=2.0)

    def _advance(self) -> None:
        self.tick += 1

    def _work(self) -> None:
        try:
            self._loop(self._make_loader(self._advance))
        except Exception as error:  # without this thread the node is of no use: it ends, and others hear of it
            log.exception("compute thread ended")
            self._post(ComputeEnded(f"{type(error).__name__}: {error}"))

    def _loop(self, loader: EngineLoader) -> None:
        while True:
            try:
                # While a part loads, its next piece is always waiting; sessions' work comes between the pieces.
                job = self._jobs.get(block=not self._loading, timeout=IDLE_TICK_SECONDS)
            except queue.Empty:
                self._advance()
                if self._loading:
                    self._load_piece()
                continue
            if isinstance(job, _Stop):
                return
            self._do(job, loader)

    def _do(self, job: Job, loader: EngineLoader) -> None:
        match job:
            case Run(batch):
                try:
                    result = self._engines[batch.model].run(batch)
                except Exception as error:  # the compute thread must outlive any batch
                    log.exception("batch failed model=%s part=%s", batch.model, batch.part)
                    self._post(BatchFailed(f"{type(error).__name__}: {error}"))
                else:
                    self._post(BatchDone(result))
            case Forget(model, session, part):
                if model in self._engines:
                    self._engines[model].forget(session, part)
            case Load(model, part):
                self._loading[model] = loader.load(model, part, self._engines.get(model))
            case Unload(model):
                self._engines.pop(model, None)
                self._loading.pop(model, None)

    def _load_piece(self) -> None:
        model, pieces = next(iter(self._loading.items()))
        try:
            piece = next(pieces)
        except SwarmError as error:
            del self._loading[model]
            self._post(PartFailed(model, str(error)))
            return
        except Exception as error:
            log.exception("loading failed model=%s", model)
            del self._loading[model]
            self._post(PartFailed(model, f"{type(error).__name__}: {error}"))
            return
        self._advance()
        if isinstance(piece, tuple):
            if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
                self._told_at = time.monotonic()
                self._post(PartProgress(model, *piece))
        else:
            del self._loading[model]
            self._engines[model] = piece
            self._post(PartLoaded(piece.served))

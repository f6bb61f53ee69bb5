"""The compute thread: owns every engine and runs what it is given, one job after another.

Its tick moves after each layer and each job, and while it is idle; a tick that stands still means that it is stuck. What it
is to load is read by loader threads (loader.py).
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from swarm.errors import WeightsError
from swarm.models import ModelKey
from swarm.node.batches import Batch
from swarm.node.compute.loader import Built, LoaderThreads, LoadOrder
from swarm.node.compute.protocol import DeviceLost, Engine, EngineLoader
from swarm.node.effects import Forget, Load, Run, Unload
from swarm.node.events import BatchDone, BatchFailed, ComputeEnded, Event, PartFailed, PartLoaded, WeightsLost

IDLE_TICK_SECONDS = 0.5

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
        are_cores_used: Callable[[], bool] = lambda: False,
    ) -> None:
        """make_loader: builds the loader on a loader thread (torch is imported there), given the tick.

        are_cores_used: whether a node of this machine computes at this moment.
        """
        self.tick = 0
        self._post = post
        self._jobs: queue.SimpleQueue[Job | Built | _Stop] = queue.SimpleQueue()
        self._engines: dict[ModelKey, Engine] = {}
        self._numbers = itertools.count(1)
        self._wanted: dict[ModelKey, int] = {}  # model → the load that counts; a later one takes its place
        self._loader = LoaderThreads(lambda: make_loader(self._advance), post, self._jobs.put, are_cores_used)
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)

    def start(self) -> None:
        self._loader.start()
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
            self._loop()
        except (
            Exception
        ) as error:  # without this thread, or its device, the node is of no use: it ends, and others hear of it
            log.exception("compute thread ended")
            self._post(ComputeEnded(f"{type(error).__name__}: {error}"))

    def _loop(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_TICK_SECONDS)
            except queue.Empty:
                self._advance()
                continue
            if isinstance(job, _Stop):
                return
            gives_up = self._do(job)
            del job  # and the engine that it was to replace
            if gives_up:
                self._loader.trim()
            self._advance()  # a part without layers has nothing else that moves it

    def _do(self, job: Job | Built) -> bool:
        """Whether much memory may be free now: something is given up, or a batch had too little."""
        match job:
            case Run(batch):
                return not self._run(batch)
            case Forget(model, session, part):
                if model in self._engines:
                    self._engines[model].forget(session, part)
            case Load(model, part, residence):
                self._wanted[model] = number = next(self._numbers)
                old = self._engines.get(model)
                order = LoadOrder(model, part, residence, old, lambda: self._wanted.get(model) == number)
                self._loader.load(order)
            case Unload(model):
                self._engines.pop(model, None)
                self._wanted.pop(model, None)
                return True
            case Built():
                self._take_up(job)
                return True
        return False

    def _run(self, batch: Batch) -> bool:
        """Whether a batch could be computed."""
        try:
            result = self._engines[batch.model].run(batch)
        except DeviceLost:
            raise
        except Exception as error:  # the compute thread must outlive any batch
            log.exception("batch failed model=%s part=%s", batch.model, batch.part)
            if isinstance(error, WeightsError):
                self._post(WeightsLost(batch.model, str(error)))
            self._post(BatchFailed(f"{type(error).__name__}: {error}"))
            return False
        self._post(BatchDone(result))
        return True

    def _take_up(self, built: Built) -> None:
        """Make the engine of what has been loaded, if it is still wanted; what it has cached meanwhile goes along."""
        model = built.order.model
        if not built.order.is_wanted():
            return
        try:
            self._engines[model] = engine = built.make(self._engines.get(model))
        except DeviceLost:
            raise
        except Exception as error:
            log.exception("no engine model=%s", model)
            self._post(PartFailed(model, f"{type(error).__name__}: {error}"))
        else:
            self._post(PartLoaded(engine.served))

"""A node of a simulated swarm: the machine of a real one, an engine of integers, and what a shell would do for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from msgspec import structs

from swarm.models import ModelKey
from swarm.node.batches import Batch, BatchResult
from swarm.node.effects import AskCores, Effect, Forget, GiveCores, Load, Run, Unload
from swarm.node.events import BatchDone, BatchFailed, CoresTaken, Event, PartLoaded, Ticked
from swarm.node.machine import NodeMachine
from swarm.node.residence import Residence
from swarm.parts import NOTHING, Part
from swarm.testing.integer_model import IntegerEngine, IntegerModel
from swarm.testing.promises import check_drop, check_fences, check_memory, check_present
from swarm.testing.reading import WEIGHT_BYTES, SimulatedReader
from swarm.testing.shared_cores import SharedCores

TICK_SECONDS = 0.2
LOAD_SECONDS = 0.05


class Outside(Protocol):
    """What is around a node."""

    seed: int
    now: float
    model: IntegerModel
    kv_capacity: int

    def after(self, delay: float, act: Callable[[], None]) -> None: ...

    def carry(self, name: str, effect: Effect) -> None: ...

    def note_change(self) -> None: ...

    def views_of_others(self, name: str) -> Sequence[Sequence[NodeMachine]]: ...


@dataclass(slots=True, kw_only=True)
class SimulatedNode:
    """One process. Its fields are what faults are made of.

    start: again, as a new process of the same name. fails: whether a batch cannot be computed.
    """

    machine: NodeMachine
    address: str
    speed: float
    start: Callable[[], None]
    outside: Outside
    engine: IntegerEngine | None = None
    reader: SimulatedReader | None = None
    is_up: bool = True
    tick: int = 0
    stalled_until: float = 0.0  # nothing is handled before
    stuck_until: float = 0.0  # nothing is computed before
    clock_ahead: float = 0.0
    fails: Callable[[Batch], bool] = lambda batch: False
    load_seconds: float = LOAD_SECONDS
    read_seconds: float = 0.0  # of a layer that comes from disk each time
    cores: SharedCores = field(default_factory=SharedCores)
    kind: str = ""  # of processor

    @property
    def name(self) -> str:
        return self.machine.node

    @property
    def model(self) -> ModelKey:
        """The one that it has weights of."""
        (model,) = self.machine.membership.local
        return model

    @property
    def stays(self) -> bool:
        """Whether it is there, and means to be."""
        return self.is_up and not self.machine.is_leaving

    @property
    def now(self) -> float:
        """By its own clock."""
        return self.outside.now + self.clock_ahead

    def advance(self) -> None:
        """Time passes, for as long as it is up."""
        if not self.is_up:
            return
        if self.stuck_until <= self.outside.now:
            self.tick += 1
        self.feed(Ticked(self.tick, 0))
        self.outside.after(TICK_SECONDS, self.advance)

    def feed(self, event: Event) -> None:
        """Have it handle an event, now or once it no longer stalls."""
        if not self.is_up:
            return
        if self.stalled_until > self.outside.now:
            self.outside.after(self.stalled_until - self.outside.now, lambda: self.feed(event))
            return
        for effect in self.machine.handle(event, self.now):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        """Compute and load here; what goes to others is carried outside."""
        match effect:
            case AskCores():
                self.cores.ask(self.name, self._take_cores)
            case GiveCores():
                self.cores.give(self.name)
            case Run(batch):
                self._run(batch)
            case Forget(_, session, part):
                if self.engine is not None:
                    self.engine.forget(session, part)
            case Load(_, part, residence):
                check_present(self.outside.seed, self.machine, part)
                check_memory(self.outside.seed, self.machine, part, residence)
                self.outside.note_change()
                self._drop(part)
                self.outside.after(self.load_seconds, lambda: self._load(part, residence))
            case Unload():
                self._drop(NOTHING)
                self.engine = None
            case _:
                self.outside.carry(self.name, effect)

    def _take_cores(self, has_waited: bool) -> None:
        if has_waited:
            self.outside.after(0.0, lambda: self.feed(CoresTaken(was_contended=True)))
        else:
            self.feed(CoresTaken())

    def _run(self, batch: Batch) -> None:
        if self.engine is None:
            self.outside.after(0.0, lambda: self.feed(BatchFailed("nothing is loaded")))
            return
        if self.fails(batch):
            self.outside.after(0.001, lambda: self.feed(BatchFailed("out of order")))
            return
        check_fences(self.outside.seed, self.machine, batch)
        result = self._read(self.engine.run(batch), batch)
        done = max(self.outside.now + result.seconds, self.stuck_until)
        self.outside.after(done - self.outside.now, lambda: self.feed(BatchDone(result)))

    def _read(self, result: BatchResult, batch: Batch) -> BatchResult:
        """The same with what it takes to wait for a disk."""
        if self.reader is None:
            return result
        layers = batch.part.layers
        waited = self.reader.wait(layers, result.seconds / max(1, len(layers)), self.outside.now)
        rate = WEIGHT_BYTES / self.read_seconds if self.read_seconds else 0.0
        return structs.replace(result, seconds=result.seconds + waited, stall_seconds=waited, source_rate=rate)

    def _drop(self, part: Part) -> None:
        """Give up all that is not in `part`."""
        if self.engine is not None and self.machine.sessions.served:
            views = self.outside.views_of_others(self.name)
            check_drop(self.outside.seed, self.machine, self.engine.served.part, part, views)

    def _load(self, part: Part, residence: Residence) -> None:
        if not self.is_up:
            return
        self.outside.note_change()
        model = replace(
            self.outside.model,
            variant=self.model.variant,
            layer_seconds=self.outside.model.layer_seconds / self.speed,
            end_seconds=self.outside.model.end_seconds / self.speed,
            kind=self.kind,
        )
        self.engine = IntegerEngine(
            model,
            part,
            self.outside.kv_capacity,
            pause=lambda seconds: None,
            old=self.engine,
            residence=residence,
        )
        self.reader = SimulatedReader(residence, self.read_seconds, self.outside.now) if residence.streamed else None
        self.feed(PartLoaded(self.engine.served))

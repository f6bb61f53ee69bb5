"""What a compute thread needs of whoever computes: engines, and loaders that make them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from swarm.models import ModelKey
from swarm.node.batches import Batch, BatchResult, ServedPart
from swarm.node.residence import Residence
from swarm.parts import Part


class DeviceLost(Exception):  # noqa: N818  it is no error of a batch
    """Nothing can be computed any more in this process."""


class Engine(Protocol):
    """Computes for one model. Lives on the compute thread alone."""

    served: ServedPart

    def run(self, batch: Batch) -> BatchResult:
        """Run a batch; the spans' caches grow by their lengths. Raises DeviceLost where all others would fail, too."""
        ...

    @property
    def cached(self) -> Collection[tuple[str, Part]]:
        """(session, part) of every cache that is held."""
        ...

    def forget(self, session: str, part: Part) -> None:
        """Free a session's cache of a part."""
        ...


MakeEngine = Callable[[Engine | None], Engine]  # from what is loaded; given the engine whose caches it takes over


class EngineLoader(Protocol):
    """Loads parts of the models that a node has the weights of."""

    def load(
        self, model: ModelKey, part: Part, residence: Residence, old: Engine | None
    ) -> Iterator[tuple[int, int] | MakeEngine]:
        """Yield (done, total) in bytes as pieces are read, and last what makes the engine, on the compute thread.

        residence: which layers are kept. old: the engine that serves meanwhile; whatever of `part` it has loaded is used,
        not read again. Raises WeightsError or RequestError.
        """
        ...

    def trim(self) -> None:
        """Give memory that nothing uses back to the system."""
        ...

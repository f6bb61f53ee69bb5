"""A swarm-node without memory for long sessions: `python -m tests.failing_torch_node POSITIONS node OPTIONS…`.

Keys and values for more than so many positions cannot be allocated, once it serves.
"""

from __future__ import annotations

import sys

from torch import Tensor

from swarm.cli.__main__ import main
from swarm.decoder.cache import ContiguousCache
from swarm.node.batches import Batch, BatchResult
from swarm.node.compute.engine import DecoderEngine

if __name__ == "__main__":
    most = int(sys.argv.pop(1))
    make = ContiguousCache._buffer

    served: list[None] = []
    run = DecoderEngine.run

    def run_noted(self: DecoderEngine, batch: Batch) -> BatchResult:
        served.append(None)
        return run(self, batch)

    def make_or_fail(self: ContiguousCache, positions: int) -> Tensor:
        if served and positions > most:
            raise RuntimeError(f"DefaultCPUAllocator: not enough memory: you tried to allocate {positions} positions")
        return make(self, positions)

    ContiguousCache._buffer = make_or_fail
    DecoderEngine.run = run_noted
    main()

"""A swarm-node without memory for long sessions: `python -m tests.failing_torch_node POSITIONS node OPTIONS…`.

Keys and values for more than so many positions cannot be allocated.
"""

from __future__ import annotations

import sys

from torch import Tensor

from swarm.cli.__main__ import main
from swarm.decoder.cache import Cache

if __name__ == "__main__":
    most = int(sys.argv.pop(1))
    make = Cache._buffer

    def make_or_fail(self: Cache, positions: int) -> Tensor:
        if positions > most:
            raise RuntimeError(f"DefaultCPUAllocator: not enough memory: you tried to allocate {positions} positions")
        return make(self, positions)

    Cache._buffer = make_or_fail
    main()

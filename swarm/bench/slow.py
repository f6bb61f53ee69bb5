"""A command with a slow disk, or slow layers: `python -m swarm.bench.slow RATE LAYER_SECONDS node|batch ARGUMENTS`.

RATE: bytes a second of all that it streams; 0: what the disk gives. LAYER_SECONDS: that each layer takes at least, asleep
once it is computed, so that several nodes do not compete for the cores of one machine.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Sequence

from torch import Tensor

from swarm.bench.throttle import Bucket
from swarm.decoder.direct import DirectFile
from swarm.decoder.layer import Layer, Span, View


def slow_down(rate: float, layer_seconds: float) -> None:
    """This process's disk and layers, before it uses any."""
    bucket = Bucket(rate or None)
    read, compute = DirectFile.read_piece, Layer.forward

    def read_slowly(self: DirectFile, memory: memoryview, offset: int) -> int:
        count = read(self, memory, offset)
        bucket.take(count)
        return count

    def compute_slowly(self: Layer, hidden: Tensor, spans: Sequence[Span], view: View) -> Tensor:
        start = time.perf_counter()
        found = compute(self, hidden, spans, view)
        time.sleep(max(0.0, start + layer_seconds - time.perf_counter()))
        return found

    DirectFile.read_piece = read_slowly
    Layer.forward = compute_slowly


if __name__ == "__main__":
    slow_down(float(sys.argv[1]), float(sys.argv[2]))
    sys.argv[1:3] = []
    runpy.run_module("swarm.cli", run_name="__main__")

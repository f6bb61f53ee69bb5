"""An integer-model node as a process of its own: `python -m tests.integer_node PART HOST PORT SECONDS [PEER …]`.

PART "+N": it has room for N layers and finds out by itself which. SECONDS: of a layer, or `LAYER+TOKEN` with those of each
further token of a batch there.
Prints its id and address once it serves. Ends when its standard input does, so that no test leaves one behind. After SIGUSR1
its compute thread is stuck; everything else lives on.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

from swarm.testing.integer_model import IntegerModel
from tests.swarms import make_node


def main(part: str, host: str, port: str, seconds: str, *peers: str) -> None:
    """Serve until the parent goes away."""
    may_compute = threading.Event()
    may_compute.set()
    signal.signal(signal.SIGUSR1, lambda *_: may_compute.clear())

    def pause(seconds: float) -> None:
        time.sleep(seconds)
        may_compute.wait()

    layer_seconds, _, token_seconds = seconds.partition("+")
    model = IntegerModel(layer_seconds=float(layer_seconds), token_seconds=float(token_seconds or 0))
    room = int(part.removeprefix("+")) if part.startswith("+") else 0
    node = make_node(
        model, None if room else part, peers, budget_layers=room, hosts=[host], port=int(port), pause=pause
    )
    node.on_ready = lambda: print(node.node, node.address, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: node.process.ask_stop())
    threading.Thread(target=lambda: (sys.stdin.read(), node.process.ask_stop()), daemon=True).start()
    sys.exit(node.process.run())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""An integer-model node as a process of its own: `python -m tests.integer_node PART HOST PORT OPTIONS [PEER …]`.

PART "+N": it has room for N layers and finds out by itself which. OPTIONS: JSON, {"model": fields of IntegerModel} and what
else make_node takes by name. Prints its id and address once it serves. Ends when its
standard input does, so that no test leaves one behind. After SIGUSR1 its compute thread is stuck; everything else lives on.
After SIGUSR2 it is stopped, as by SIGSTOP, in the middle of its next batch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from swarm.testing.integer_model import IntegerModel
from tests.swarms import make_node


def main(part: str, host: str, port: str, options: str, *peers: str) -> None:
    """Serve until the parent goes away."""
    may_compute = threading.Event()
    may_compute.set()
    signal.signal(signal.SIGUSR1, lambda *_: may_compute.clear())

    stops_next = threading.Event()
    signal.signal(signal.SIGUSR2, lambda *_: stops_next.set())

    def pause(seconds: float) -> None:
        if stops_next.is_set():
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(seconds)
        may_compute.wait()

    given = json.loads(options)
    model = IntegerModel(**given.pop("model"))
    if part.startswith("+"):
        given["budget_layers"] = int(part)
    node = make_node(
        model, None if part.startswith("+") else part, peers, hosts=[host], port=int(port), pause=pause, **given
    )
    node.on_ready = lambda: print(node.node, node.address, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: node.process.ask_stop())
    threading.Thread(target=lambda: (sys.stdin.read(), node.process.ask_stop()), daemon=True).start()
    sys.exit(node.process.run())


if __name__ == "__main__":
    main(*sys.argv[1:])

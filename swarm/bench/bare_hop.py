"""What one hop costs with nothing but ZeroMQ and CURVE: the floor for our own overhead.

Two processes pass a frame back and forth; each is idle for a while before it passes it on, as long as a hop computes.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from statistics import fmean

import zmq

from swarm.keys import derive_keys, new_identity
from swarm.wire.sockets import make_dealer, make_router

KEYS = derive_keys(b"b" * 32)
MESSAGE = b"x" * 4096
ROUNDS = 72  # a stream's 64 tokens and the warm-up: the swarm's own figure is a mean too
WARM_UP = 8
_SECONDS = struct.Struct("<d")


def measure_bare_hop_ms(period_seconds: float) -> float:
    """Milliseconds that one hop adds when each process has something to pass on once in `period_seconds`.

    Counted as the swarm's own overhead is: what passes besides the time in which a process computes; here it sleeps. Two
    processes pass one frame to and fro, so each sleeps for half a period: as in a ring, a process idles for a whole one.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    zap = context.socket(zmq.REP)
    zap.bind("inproc://zeromq.zap.01")
    router = make_router(context, KEYS)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    gap_seconds = period_seconds / 2
    command = [sys.executable, "-m", "swarm.bench.bare_hop", str(port), str(gap_seconds)]
    with subprocess.Popen(command) as child:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(zap, zmq.POLLIN)
        overheads: list[float] = []
        arrived = own_sleep = 0.0
        while len(overheads) < ROUNDS:
            for socket, _ in poller.poll(5000):
                if socket is zap:
                    request = zap.recv_multipart()
                    zap.send_multipart([b"1.0", request[1], b"200", b"OK", b"", b""])
                    continue
                routing_id, slept, payload = router.recv_multipart()
                before, arrived = arrived, time.perf_counter()
                overheads.append((arrived - before - own_sleep - _SECONDS.unpack(slept)[0]) / 2)
                own_sleep = _sleep(gap_seconds)
                router.send_multipart([routing_id, _SECONDS.pack(own_sleep), payload])
        child.terminate()
    router.close(0)
    zap.close(0)
    context.term()
    return fmean(overheads[WARM_UP:]) * 1000


def _sleep(seconds: float) -> float:
    """How long it took in fact."""
    started = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - started


def _answer(port: int, gap_seconds: float) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = make_dealer(context, KEYS, new_identity())
    socket.setsockopt(zmq.IMMEDIATE, 0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send_multipart([_SECONDS.pack(0.0), MESSAGE])
    while True:
        _, payload = socket.recv_multipart()
        slept = _sleep(gap_seconds)
        socket.send_multipart([_SECONDS.pack(slept), payload])


if __name__ == "__main__":
    _answer(int(sys.argv[1]), float(sys.argv[2]))

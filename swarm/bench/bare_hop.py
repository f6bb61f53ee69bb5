"""What one hop costs with nothing but ZeroMQ and CURVE: the floor for our own overhead.

Two processes pass a frame back and forth; each is idle for a while before it passes it on, as long as a hop computes.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from statistics import median

import zmq

from swarm.keys import derive_keys, new_identity
from swarm.wire.sockets import make_dealer, make_router

KEYS = derive_keys(b"b" * 32)
MESSAGE = b"x" * 4096
ROUNDS = 60
WARM_UP = 10
_CLOCK = struct.Struct("<d")


def measure_bare_hop_ms(gap_seconds: float) -> float:
    """Milliseconds of one crossing after both sides have been idle for `gap_seconds`.

    The clocks of two processes on one machine are the same, so each message carries when it left.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    zap = context.socket(zmq.REP)
    zap.bind("inproc://zeromq.zap.01")
    router = make_router(context, KEYS)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    command = [sys.executable, "-m", "swarm.bench.bare_hop", str(port), str(gap_seconds)]
    with subprocess.Popen(command) as child:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(zap, zmq.POLLIN)
        crossings: list[float] = []
        while len(crossings) < ROUNDS:
            for socket, _ in poller.poll(5000):
                if socket is zap:
                    request = zap.recv_multipart()
                    zap.send_multipart([b"1.0", request[1], b"200", b"OK", b"", b""])
                    continue
                routing_id, stamp, payload = router.recv_multipart()
                crossings.append(time.perf_counter() - _CLOCK.unpack(stamp)[0])
                time.sleep(gap_seconds)
                router.send_multipart([routing_id, _CLOCK.pack(time.perf_counter()), payload])
        child.terminate()
    router.close(0)
    zap.close(0)
    context.term()
    return median(crossings[WARM_UP:]) * 1000


def _answer(port: int, gap_seconds: float) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = make_dealer(context, KEYS, new_identity())
    socket.setsockopt(zmq.IMMEDIATE, 0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send_multipart([_CLOCK.pack(time.perf_counter()), MESSAGE])
    while True:
        _, payload = socket.recv_multipart()
        time.sleep(gap_seconds)
        socket.send_multipart([_CLOCK.pack(time.perf_counter()), payload])


if __name__ == "__main__":
    _answer(int(sys.argv[1]), float(sys.argv[2]))

"""What one hop costs with nothing but ZeroMQ and CURVE: the floor for our own overhead.

Two processes pass a frame back and forth; each computes (spins) for a while before it passes it on, as nodes do.
"""

from __future__ import annotations

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


def measure_bare_hop_ms(gap_seconds: float) -> float:
    """Milliseconds of one crossing when each side is silent for `gap_seconds` before it sends."""
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
        sent = 0.0
        while len(crossings) < ROUNDS:
            for socket, _ in poller.poll(5000):
                if socket is zap:
                    request = zap.recv_multipart()
                    zap.send_multipart([b"1.0", request[1], b"200", b"OK", b"", b""])
                    continue
                frames = router.recv_multipart()
                now = time.perf_counter()
                if sent:
                    crossings.append((now - sent - gap_seconds) / 2)
                _spin(gap_seconds)
                sent = time.perf_counter()
                router.send_multipart(frames)
        child.terminate()
    router.close(0)
    zap.close(0)
    context.term()
    return median(crossings) * 1000


def _spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def _answer(port: int, gap_seconds: float) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = make_dealer(context, KEYS, new_identity())
    socket.setsockopt(zmq.IMMEDIATE, 0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send(MESSAGE)
    while True:
        message = socket.recv()
        _spin(gap_seconds)
        socket.send(message)


if __name__ == "__main__":
    _answer(int(sys.argv[1]), float(sys.argv[2]))

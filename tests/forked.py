"""Nodes that a fork server starts (`fork_server.py`), used as if they were `subprocess.Popen`."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

from tests.fork_server import REPORT, Request


class ForkedProcess:
    """What the tests need of a Popen with pipes."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], namespace: str | None) -> None:
        """A node with these arguments, in a network namespace of that name or in this one."""
        ends = [os.pipe() for _ in range(3)]
        (out, err, self._report), given = zip(*ends, strict=True)
        request = Request(list(arguments), dict(environment), str(Path.cwd()), namespace)
        _, control = fork_server(environment["OMP_NUM_THREADS"])
        socket.send_fds(control, [msgspec.json.encode(request)], given)
        for end in given:
            os.close(end)
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
        self.returncode: int | None = None
        self.pid = self._read_report()

    def _read_report(self) -> int:
        said = os.read(self._report, REPORT.size)
        assert said, "the fork server has ended"
        return REPORT.unpack(said)[0]

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            waiting = select.poll()
            waiting.register(self._report, select.POLLIN)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(f"node {self.pid}", timeout or 0.0)
            self.returncode = self._read_report()
            os.close(self._report)
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def fork_server(threads: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """It, and where to ask; it ends with this process. threads: of OpenMP, which reads them once."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(there.fileno())],
            env={**os.environ, "OMP_NUM_THREADS": threads},
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return server, here

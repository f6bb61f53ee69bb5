"""A process that has imported what a node imports, and forks itself for each node that is asked for.

Importing torch is most of what a node takes to start, and the tests start hundreds. All that a node does after its imports
is the same. Tests of how one starts and of the memory that it takes start a program instead (`processes.Node`).
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import msgspec

IMPORTED = (
    "torch",
    "swarm.discovery.lan",
    "swarm.families",
    "swarm.node.shell.build",
    "swarm.node.shell.ledger",
    "swarm.node.shell.process",
    "swarm.node.shell.served_before",
)
REPORT = struct.Struct("q")  # the child's pid, and when it has ended its exit status
MOST_BYTES = 1 << 17  # of a request
CLONE_NEWNET = 0x40000000


class Request(msgspec.Struct):
    """A node's command line, its whole environment, where it runs, and in which network namespace if in another."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    namespace: str | None


def fork_as_asked(control: socket.socket) -> Request | None:
    """Until nobody can ask any more. Returns in each child what it has become, with its standard streams in place.

    With a request come the ends of three pipes: standard output and error, and where it is told how the child fares.
    """
    reports: dict[int, tuple[int, int]] = {}  # by pidfd: a child's pid, and where its end is told
    with selectors.PollSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in reports:
                    selector.unregister(key.fd)
                    pid, report = reports.pop(key.fd)
                    os.close(key.fd)
                    tell(report, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    os.close(report)
                    continue
                asked, (out, err, report) = receive(control)
                if asked is None:
                    return None
                pid = os.fork()
                if not pid:
                    become(asked, out, err)
                    control.close()
                    for fd in (report, *reports, *(end for _, end in reports.values())):
                        os.close(fd)
                    return asked
                os.close(out)
                os.close(err)
                tell(report, pid)
                reports[child := os.pidfd_open(pid)] = pid, report
                selector.register(child, selectors.EVENT_READ)


def receive(control: socket.socket) -> tuple[Request | None, list[int]]:
    said, fds, _, _ = socket.recv_fds(control, MOST_BYTES, 3)
    return (msgspec.json.decode(said, type=Request), fds) if said else (None, [-1] * 3)


def tell(report: int, number: int) -> None:
    try:
        os.write(report, REPORT.pack(number))
    except BrokenPipeError:  # who asked has gone
        return


def become(request: Request, out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None  # to be found in that environment
    os.chdir(request.directory)
    if request.namespace is not None:
        enter(Path("/run/netns") / request.namespace)


def enter(namespace: Path) -> None:
    """Raises OSError where that may not be."""
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open() as opened:
        if libc.setns(opened.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def main() -> None:
    from swarm.cli.tuning import prepare_to_compute

    prepare_to_compute()
    for name in IMPORTED:
        import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "threads are lost by a fork"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if request := fork_as_asked(socket.socket(fileno=int(sys.argv[1]))):
        from swarm.cli.node import main

        sys.argv = ["swarm-node", *request.arguments]
        main()


if __name__ == "__main__":
    main()

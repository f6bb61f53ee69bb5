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
from typing import NamedTuple

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


class Child(NamedTuple):
    """One that has been forked, and where it is told how it fares."""

    pid: int
    report: int


def fork_as_asked(control: socket.socket) -> Request | None:
    """Until nobody can ask any more. Returns in each child what it has become, with its standard streams in place."""
    with selectors.PollSelector() as selector:  # of who asks, and of children by pidfd
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if isinstance(key.data, Child):
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    tell_end(key.data)
                    continue
                said, fds, _, _ = socket.recv_fds(control, MOST_BYTES, 3)
                if not said:
                    return None
                child = fork(*fds)
                if child is None:
                    close_all(selector)
                    return become(msgspec.json.decode(said, type=Request))
                selector.register(os.pidfd_open(child.pid), selectors.EVENT_READ, child)


def fork(out: int, err: int, report: int) -> Child | None:
    """A child, or None in it. Ends of three pipes: its standard output and error, and where it is told how it fares."""
    pid = os.fork()
    if not pid:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(report)
    os.close(out)
    os.close(err)
    if not pid:
        return None
    tell(report, pid)
    return Child(pid, report)


def tell_end(child: Child) -> None:
    """That it has ended, and how."""
    tell(child.report, os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]))
    os.close(child.report)


def close_all(selector: selectors.BaseSelector) -> None:
    """In a child: what is its parent's."""
    for key in selector.get_map().values():
        os.close(key.fd)
        if isinstance(key.data, Child):
            os.close(key.data.report)


def tell(report: int, number: int) -> None:
    try:
        os.write(report, REPORT.pack(number))
    except BrokenPipeError:  # who asked has gone
        return


def become(request: Request) -> Request:
    """Be where and what is asked for, but for the node itself."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None  # to be found in that environment
    os.chdir(request.directory)
    if request.namespace is not None:
        enter(Path("/run/netns") / request.namespace)
    return request


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
    control = socket.socket(fileno=int(sys.argv[1]))
    if request := fork_as_asked(control):
        from swarm.cli.node import main

        control.detach()  # closed already
        sys.argv = ["swarm-node", *request.arguments]
        main()


if __name__ == "__main__":
    main()

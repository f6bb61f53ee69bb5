"""Memory that a process may use, held by the kernel: a control group of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

GROUPS = Path("/sys/fs/cgroup")
JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@contextmanager
def memory_limit(size: int) -> Iterator[Sequence[str]]:
    """What to put before a command, so that its memory and the page cache that it fills stay within so many bytes.

    Skips the test where this machine has no such groups, or none may be made.
    """
    old = GROUPS / "memory"
    parent = old if old.is_dir() else GROUPS
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if _is_of(line, parent == old))
    parent /= own.rpartition(":")[2].lstrip("/")
    group = parent / f"swarm-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if parent.is_relative_to(old) else "memory.max")).write_text(f"{size}")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield ["sh", "-c", JOIN, str(group)]
    finally:
        group.rmdir()


def _is_of(line: str, is_old: bool) -> bool:
    number, controllers, _ = line.split(":", 2)
    return "memory" in controllers.split(",") if is_old else number == "0"

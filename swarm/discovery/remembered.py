"""Addresses of peers that answered once, kept in a file between runs: hints for where multicast is blocked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from swarm.files import write_whole

MOST = 64


def read_remembered(path: Path) -> list[str]:
    """HOST:PORT of peers that answered before; none if the file is missing or damaged."""
    try:
        return [str(address) for address in json.loads(path.read_text("utf-8"))][:MOST]
    except (ValueError, OSError, TypeError):
        return []  # a hint that got lost


def remember(path: Path, addresses: Iterable[str]) -> None:
    """Keep the addresses, the newest last, before those that are known already."""
    newest = list(dict.fromkeys(addresses))
    if not newest:
        return
    older = [address for address in read_remembered(path) if address not in newest]
    with contextlib.suppress(OSError):  # no room, or nothing may be written: the hint gets lost
        write_whole(path, json.dumps([*older, *newest][-MOST:]).encode())

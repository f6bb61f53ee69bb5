"""Addresses of peers that answered once, kept in a file between runs: hints for where multicast is blocked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps([*older, *newest][-MOST:]), "utf-8")
    temporary.replace(path)

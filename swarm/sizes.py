"""Numbers of bytes as people write them, both ways."""

from __future__ import annotations

import re

from swarm.errors import RequestError

_SIZE = re.compile(r"([0-9.]+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of "6GB", "512MiB", "1.5G". Raises RequestError with an example."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise RequestError(f'size "{text}" is not understood; write for example 6GB or 512MiB')
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def format_size(count: int) -> str:
    """Bytes in words: 1.36 GB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"

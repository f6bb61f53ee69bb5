"""How long a peer that sent nonsense is not listened to. Pure: takes the time as an argument."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
FORGIVEN_AFTER_SECONDS = 120.0
REMEMBERED = 1024


@dataclass(slots=True)
class _Record:
    count: int
    last: float


class Penalties:
    """Each violation silences its sender twice as long as the one before, and is counted for swarm-status."""

    def __init__(self) -> None:
        self.total = 0
        self._records: dict[str, _Record] = {}

    def note(self, node: str, now: float) -> None:
        """`node` sent something malformed."""
        self.total += 1
        record = self._records.pop(node, None)
        if record is None or now - record.last > FORGIVEN_AFTER_SECONDS:
            record = _Record(0, now)
        self._records[node] = _Record(record.count + 1, now)
        while len(self._records) > REMEMBERED:
            del self._records[next(iter(self._records))]

    def is_muted(self, node: str, now: float) -> bool:
        record = self._records.get(node)
        if record is None:
            return False
        return now - record.last < min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(record.count - 1, 10))

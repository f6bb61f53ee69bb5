"""Which addresses to knock at, and when to give one up: hints are many and may be lies, connections are few.

Pure: addresses and times go in, Dial and HangUp come out. Knows nothing of who is who: keys decide that, once somebody
answers. Anyone on the LAN can announce any number of addresses over mDNS, so those get a few connections at a time, a few
for each host, and are forgotten when nobody answers; the word of a member is tried beside them, and longer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

MOST_HINTED = 32  # connections at a time to addresses that only mDNS named
MOST_HINTED_A_HOST = 4
MOST_VOUCHED = 64
MOST_ADDRESSES = 1024  # above which hints are dropped
MOST_VOUCHED_FOR = 4096  # above which even a member is not listened to
ANSWER_SECONDS = 8.0  # longer than a connection and a handshake may take
DOWN_SECONDS = 30.0  # that ZeroMQ tries a broken connection again, ten times a second at first
LONGEST_HINTED_SECONDS = 60.0  # between two knocks at the same address
LONGEST_VOUCHED_SECONDS = 15.0
HINTED_SECONDS = 120.0  # for which a hint is worth anything: the records' time to live
VOUCHED_SECONDS = 3600.0


Rank = Literal["named", "vouched", "hinted"]  # by the user; by a member; by anybody


@dataclass(frozen=True, slots=True)
class Knock:
    """Connect to an address, or give the connection up."""

    address: str
    is_over: bool = False


@dataclass(slots=True)
class _Known:
    rank: Rank
    until: float  # it is forgotten then, unless it is up or named
    state: Literal["waiting", "knocking", "up", "down"] = "waiting"
    since: float = 0.0
    failures: int = 0
    next_at: float = 0.0

    def is_due(self, now: float) -> bool:
        return self.state == "waiting" and self.next_at <= now


class Knocks:
    """Every address that was ever named, as far as it is worth remembering."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._knocking: set[str] = set()

    # What is heard ----------------------------------------------------------------------------------------------------

    def name(self, address: str, now: float) -> list[Knock]:
        """The user gave this address: it is tried for as long as the process runs."""
        known = self._known.setdefault(address, _Known("named", now))
        known.rank = "named"
        return self._try(address, now)

    def vouch(self, address: str, now: float) -> list[Knock]:
        """A member, or what an earlier run has remembered, gave this address."""
        if address not in self._known and len(self._known) >= MOST_VOUCHED_FOR:
            return []
        known = self._known.setdefault(address, _Known("vouched", now))
        if known.rank == "hinted":
            known.rank, known.next_at = "vouched", now
        known.until = now + VOUCHED_SECONDS
        return self._try(address, now)

    def hint(self, address: str, now: float) -> list[Knock]:
        """Somebody on the LAN announced this address."""
        known = self._known.setdefault(address, _Known("hinted", now, since=now))
        known.until = max(known.until, now + HINTED_SECONDS)
        self._crowd_out()
        return self._try(address, now)

    def answered(self, address: str, now: float) -> list[Knock]:
        """A member answered there."""
        known = self._known.setdefault(address, _Known("vouched", now))
        if known.rank == "hinted":
            known.rank = "vouched"
        known.state, known.since, known.failures, known.until = "up", now, 0, now + VOUCHED_SECONDS
        self._knocking.discard(address)
        return self._begin(now)

    def broke(self, address: str, now: float) -> None:
        """The connection there broke; it is tried again by itself for a while."""
        known = self._known.get(address)
        if known is not None:
            known.state, known.since, known.until = "down", now, now + VOUCHED_SECONDS

    def failed(self, address: str, now: float) -> list[Knock]:
        """Nobody answers there, or no member."""
        known = self._known.get(address)
        if known is None or known.rank == "named" or known.state != "knocking":
            return []
        return [self._give_up(address, known, now), *self._begin(now)]

    def forget(self, address: str) -> None:
        """Who answers there is reached elsewhere, or is this node itself."""
        self._known.pop(address, None)
        self._knocking.discard(address)

    # What to do -------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Knock]:
        """Give up what has not answered, and knock where it is time and there is room for it."""
        knocks: list[Knock] = []
        for address, known in list(self._known.items()):
            patience = {"knocking": ANSWER_SECONDS, "down": DOWN_SECONDS}.get(known.state)
            if known.rank != "named" and patience is not None and now - known.since > patience:
                knocks.append(self._give_up(address, known, now))
            if known.rank != "named" and known.state == "waiting" and known.until < now:
                del self._known[address]
        return [*knocks, *self._begin(now)]

    def _give_up(self, address: str, known: _Known, now: float) -> Knock:
        known.failures += 1
        longest = LONGEST_HINTED_SECONDS if known.rank == "hinted" else LONGEST_VOUCHED_SECONDS
        known.state, known.since = "waiting", now
        known.next_at = now + min(longest, 2.0 ** min(known.failures, 8))
        self._knocking.discard(address)
        return Knock(address, is_over=True)

    def _begin(self, now: float) -> list[Knock]:
        """Knock where it is time: where it failed least first, then what is newest."""
        due = [(known.failures, -known.since, address) for address, known in self._known.items() if known.is_due(now)]
        return [knock for _, _, address in sorted(due) for knock in self._try(address, now)]

    def _try(self, address: str, now: float) -> list[Knock]:
        """Knock at an address if it is time and there is room."""
        known = self._known.get(address)
        if known is None or not known.is_due(now) or not self._has_room(known.rank, _host(address)):
            return []
        known.state, known.since = "knocking", now
        self._knocking.add(address)
        return [Knock(address)]

    def _has_room(self, rank: Rank, host: str) -> bool:
        if rank == "named":
            return True
        busy = [address for address in self._knocking if self._known[address].rank == rank]
        if rank == "vouched":
            return len(busy) < MOST_VOUCHED
        return len(busy) < MOST_HINTED and sum(_host(address) == host for address in busy) < MOST_HINTED_A_HOST

    def _crowd_out(self) -> None:
        """Keep the table bounded: of hints only, the hosts with the most addresses lose some, the oldest first."""
        if len(self._known) <= MOST_ADDRESSES:
            return
        idle = [address for address, one in self._known.items() if (one.rank, one.state) == ("hinted", "waiting")]
        sizes = Counter(_host(address) for address in idle)
        idle.sort(key=lambda address: (-sizes[_host(address)], self._known[address].since))
        for address in idle[: MOST_ADDRESSES // 8]:
            del self._known[address]


def _host(address: str) -> str:
    return address.rpartition(":")[0]

"""Which addresses to knock at, and when to give one up: hints are many and may be lies, connections are few.

Pure: addresses and times go in, knocks come out. Knows nothing of who is who: keys decide that, once somebody
answers. Anyone on the LAN can announce any number of addresses over mDNS, so those get a few connections at a time, a few
for each host, and the first to be forgotten; the word of a member is tried beside them, and more often.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

MOST_HINTED = 32  # connections at a time to addresses that only mDNS named
MOST_HINTED_A_HOST = 4
MOST_VOUCHED = 64
MOST_ADDRESSES = 1024
ANSWER_SECONDS = 8.0  # longer than a connection and a handshake may take
DOWN_SECONDS = 30.0  # that ZeroMQ tries a broken connection again, ten times a second at first
FRESH_SECONDS = 3600.0  # since an address was last named or answered; then hints are forgotten, others tried rarely
HINTED_SECONDS = 60.0  # between two knocks at the same address, at most
VOUCHED_SECONDS = 15.0
STALE_SECONDS = 300.0

Rank = Literal["named", "vouched", "hinted"]  # by the user; by a member; by anybody


@dataclass(frozen=True, slots=True)
class Knock:
    """Connect to an address, or give the connection up."""

    address: str
    is_over: bool = False


@dataclass(slots=True)
class _Known:
    rank: Rank
    heard: float  # when it was last named, or answered
    state: Literal["waiting", "knocking", "up", "down"] = "waiting"
    since: float = 0.0
    failures: int = 0
    next_at: float = 0.0

    def is_due(self, now: float) -> bool:
        return self.state == "waiting" and self.next_at <= now


class Knocks:
    """Addresses that were named or have answered, as many as are worth remembering."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._knocking: set[str] = set()

    # What is heard ----------------------------------------------------------------------------------------------------

    def name(self, address: str, now: float) -> list[Knock]:
        """The user gave this address: it is tried for as long as the process runs."""
        return self._hear(address, "named", now)

    def vouch(self, address: str, now: float) -> list[Knock]:
        """A member, or what an earlier run has remembered, gave this address."""
        return self._hear(address, "vouched", now)

    def hint(self, address: str, now: float) -> list[Knock]:
        """Somebody on the LAN announced this address."""
        return self._hear(address, "hinted", now)

    def _hear(self, address: str, rank: Rank, now: float) -> list[Knock]:
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = _Known(rank, now, since=now)
            self._crowd_out(address)
        known.heard = now
        if _TRUST[rank] > _TRUST[known.rank]:
            known.rank, known.next_at = rank, now
        return self._try(address, now)

    def answered(self, address: str, now: float) -> list[Knock]:
        """A member answered there."""
        known = self._known.setdefault(address, _Known("vouched", now))
        if known.rank == "hinted":
            known.rank = "vouched"
        known.state, known.since, known.failures, known.heard = "up", now, 0, now
        self._knocking.discard(address)
        return self._begin(now)

    def broke(self, address: str, now: float) -> None:
        """The connection there broke; it is tried again by itself for a while."""
        known = self._known.get(address)
        if known is not None and known.state == "up":
            known.state, known.since, known.heard = "down", now, now

    def failed(self, address: str, now: float) -> list[Knock]:
        """Nobody answers there, or no member."""
        known = self._known.get(address)
        if known is None or known.rank == "named" or known.state != "knocking":
            return []
        return [self._give_up(address, known, now), *self._begin(now)]

    def forget(self, address: str, now: float) -> None:
        """Who answers there is reached elsewhere, or is this node itself, and the connection is given up."""
        known = self._known.get(address)
        self._knocking.discard(address)
        if known is not None and known.rank == "named":
            known.state, known.next_at = "waiting", now + HINTED_SECONDS
        else:
            self._known.pop(address, None)

    def leave_to_others(self, address: str) -> None:
        """Nobody answers where a member was; others will tell where it is when it is back."""
        known = self._known.get(address)
        if known is not None and known.rank == "vouched" and known.state == "waiting":
            del self._known[address]

    # What to do -------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Knock]:
        """Give up what has not answered, and knock where it is time and there is room for it."""
        knocks: list[Knock] = []
        for address, known in list(self._known.items()):
            if known.rank == "hinted" and known.state == "waiting" and now - known.heard > FRESH_SECONDS:
                del self._known[address]
            patience = {"knocking": ANSWER_SECONDS, "down": DOWN_SECONDS}.get(known.state)
            if patience is None or now - known.since <= patience:
                continue
            if known.rank != "named":
                knocks.append(self._give_up(address, known, now))
            elif known.state == "knocking":
                known.since = now
                knocks.append(Knock(address))  # once more: there may have been no descriptor left for it
        return [*knocks, *self._begin(now)]

    def _give_up(self, address: str, known: _Known, now: float) -> Knock:
        known.failures += 1
        longest = HINTED_SECONDS if known.rank == "hinted" else VOUCHED_SECONDS
        if now - known.heard > FRESH_SECONDS:
            longest = STALE_SECONDS
        known.state, known.since = "waiting", now
        known.next_at = now + min(longest, 2.0 ** min(known.failures, 16))
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

    def _crowd_out(self, newest: str) -> None:
        """Keep the table bounded: hints go before what members said; of the hosts with most addresses, the oldest."""
        if len(self._known) <= MOST_ADDRESSES:
            return
        idle = [one for one in self._known.items() if one[1].state == "waiting" and one[1].rank != "named"]
        sizes = Counter(_host(address) for address, _ in idle)
        idle.sort(key=lambda one: (_TRUST[one[1].rank], -sizes[_host(one[0])], one[1].heard))
        for address, _ in idle[: MOST_ADDRESSES // 8]:
            if address != newest:
                del self._known[address]


_TRUST: dict[Rank, int] = {"hinted": 0, "vouched": 1, "named": 2}


def _host(address: str) -> str:
    return address.rpartition(":")[0]

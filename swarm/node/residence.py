"""Which layers of a part a node keeps in memory, and which it reads from disk each time they are needed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from swarm.errors import RequestError
from swarm.parts import Part
from swarm.plan.costs import BUFFERS, CellCosts, Streamed, buffers_for, stream_away
from swarm.sizes import format_size

SLOW_SECONDS = 0.25  # a token that takes longer is slower than one reads


@dataclass(frozen=True, slots=True)
class Residence:
    """streamed: numbers of layers. buffers: how many of them are in memory at a time."""

    streamed: Sequence[int] = ()
    buffers: int = 0

    def streamed_of(self, held: Collection[int]) -> list[int]:
        """Those of some layers that are streamed."""
        return [number for number in self.streamed if number in held]

    def count_read(self, held: Collection[int]) -> int:
        """How many of some layers are read each time they are needed; none where buffers hold them all."""
        count = len(self.streamed_of(held))
        return count if count > self.buffers else 0

    def spared_bytes(self, held: Collection[int], layer_bytes: int) -> int:
        """What the weights of some layers do not take. held: their numbers."""
        return max(0, len(self.streamed_of(held)) - self.buffers) * layer_bytes

    def of(self, part: Part) -> Residence:
        """How a smaller part is held that comes of this one."""
        held = set(part.layers)
        streamed = self.streamed_of(held)
        return Residence(tuple(streamed), self.buffers) if streamed else ALL_KEPT


ALL_KEPT = Residence()


def keep_most(part: Part, costs: CellCosts, budget: int, now: Residence, loaded: Collection[int]) -> Residence | None:
    """How a part is held with as few of its layers from disk as a budget allows; None if it fits in no way.

    now: how what is loaded so far is held. loaded: the numbers of its layers; those that are kept stay so where they can.
    """
    needed = costs.of_part(part)
    spare = now.buffers * costs.weight  # what is kept instead of what they hold is loaded beside them
    if needed + spare <= budget:
        return ALL_KEPT
    if needed <= budget:
        streamed: Streamed | None = Streamed(min(now.buffers, part.layer_count), now.buffers)
    else:
        lacking = needed - budget
        # Of layers that are new beside what is loaded, each takes memory for a moment before it is on disk.
        beside = costs.weight if loaded and not set(part.layers) <= set(loaded) else 0
        streamed = _stream_away(lacking + beside, part, costs, now) or _stream_away(lacking, part, costs, now)
    if streamed is None:
        return None
    kept = set(loaded) - set(now.streamed)
    return Residence(tuple(choose_streamed(part.layers, kept, streamed.layers)), streamed.buffers)


def _stream_away(lacking: int, part: Part, costs: CellCosts, now: Residence) -> Streamed | None:
    """Buffers that are no longer needed take memory until the rest is loaded."""
    streamed = stream_away(lacking, part.layer_count, costs.weight)
    if streamed is None or streamed.buffers >= now.buffers:
        return streamed
    beside = (now.buffers - streamed.buffers) * costs.weight
    return stream_away(lacking + beside, part.layer_count, costs.weight) or streamed


@dataclass(frozen=True, slots=True)
class Loading:
    """From how a part is held now to how it, or another one, is held then. loaded, wanted: the numbers of the layers."""

    now: Residence
    loaded: Collection[int]
    then: Residence
    wanted: Collection[int]

    @property
    def kept(self) -> set[int]:
        """Layers that are kept all the time."""
        return self._kept_now & self._kept_then

    @property
    def layers_at_once(self) -> int:
        """How many layers' memory it takes: what is used now is used until all of the new is there.

        A layer that was kept becomes a buffer where it lies. One that is new is made, before it is on disk, beside the rest.
        """
        added = max(0, self.then.buffers - self.now.buffers)
        becoming = min(added, len(self._kept_now - self._kept_then))
        beside = bool(set(self.then.streamed) & set(self.wanted) - set(self.loaded))
        return len(self._kept_now | self._kept_then) + self.now.buffers + added - becoming + beside

    @property
    def _kept_now(self) -> set[int]:
        return set(self.loaded) - set(self.now.streamed)

    @property
    def _kept_then(self) -> set[int]:
        return set(self.wanted) - set(self.then.streamed)

    def thin_out(self) -> Residence | None:
        """How to hold what is loaded first, so that no more of it is kept than will be; None if nothing is to be gained."""
        given_up = self._kept_now - self._kept_then
        buffers = max(self.now.buffers, self.then.buffers)
        if not self.loaded or self.then.buffers == 0 or len(given_up) <= buffers - self.now.buffers:
            return None
        return Residence(tuple(sorted(set(self.loaded) - self.kept)), buffers)


def share_memory(needs: Sequence[tuple[int, int]], budget: int) -> list[int]:
    """Bytes for each of several parts of which some may be on disk. needs: the least and the most that each can use."""
    spare = budget - sum(least for least, _ in needs)
    wanted = sum(most - least for least, most in needs)
    if spare >= wanted or not wanted:
        return [most for _, most in needs]
    return [least + max(0, spare) * (most - least) // wanted for least, most in needs]


def choose_streamed(layers: Sequence[int], kept: Collection[int], count: int) -> list[int]:
    """So many of some layers, those that are not kept now first."""
    new = [number for number in layers if number not in kept]
    if count <= len(new):
        return spread(new, count)
    rest = [number for number in layers if number in kept]
    return sorted([*new, *spread(rest, count - len(new))])


def settle(name: str, part: Part, needed: int, layer_bytes: int, budget: int, asked: int | None) -> Residence:
    """How a part that was asked for is held.

    needed: bytes that the part takes with all layers kept. layer_bytes: of them, a layer's weights. asked: how many layers
    to stream; None: as few as make it fit. Raises RequestError if it fits in no way.
    """
    count = part.layer_count
    if asked is not None and asked > count:
        raise RequestError(f'--stream {asked} is more than the {count} layers of "{part}" of {name}')
    if asked == 0 or (asked is None and needed <= budget):
        streamed: Streamed | None = Streamed()
    elif asked is None:
        streamed = stream_away(needed - budget, count, layer_bytes)
    else:
        streamed = Streamed(asked, buffers_for(asked))
    if streamed is None or needed - (streamed.layers - streamed.buffers) * layer_bytes > budget:
        most = max(count - 1, asked or 0, 0)
        least = min(needed, needed - max(0, most - BUFFERS) * layer_bytes)
        raise RequestError(
            f'part "{part}" of {name} needs {format_size(needed)} with its KV, and {format_size(least)} with '
            f"{most} of its layers streamed; {format_size(budget)} may be used; pass a smaller --part, or --memory "
            f"{least // 10**6 + 1}MB or more"
        )
    return Residence(tuple(spread(part.layers, streamed.layers)), streamed.buffers) if streamed.layers else ALL_KEPT


def doubt_pass(name: str, streamed: int, layer_bytes: int, rate: float) -> str | None:
    """What the user should know of a token for which so many layers are read. rate: bytes a second; 0: not measured."""
    size = streamed * layer_bytes
    if not rate or size / rate < SLOW_SECONDS:
        return None
    return (
        f"each token of {name} reads {format_size(size)} at {format_size(int(rate))}/s: it takes {size / rate:.1f} s at "
        "least, however fast the rest is; a smaller --part, more --memory or smaller weights make it faster"
    )


def spread(layers: Sequence[int], count: int) -> list[int]:
    """So many of some layers, between the others: while those compute, these are read."""
    total = len(layers)
    return [layers[(index + 1) * total // count - 1] for index in range(count)]

"""Which layers of a part a node keeps in memory, and which it reads from disk each time they are needed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from swarm.errors import RequestError
from swarm.parts import Part
from swarm.sizes import format_size

BUFFERS = 2  # of a layer each: one is computed with while the next one is read


@dataclass(frozen=True, slots=True)
class Residence:
    """streamed: numbers of layers. buffers: how many of them are in memory at a time."""

    streamed: Sequence[int] = ()
    buffers: int = 0

    def streamed_of(self, held: Collection[int]) -> list[int]:
        """Those of some layers that are streamed."""
        return [number for number in self.streamed if number in held]

    def spared_bytes(self, held: Collection[int], layer_bytes: int) -> int:
        """What the weights of some layers do not take. held: their numbers."""
        return max(0, len(self.streamed_of(held)) - self.buffers) * layer_bytes


ALL_KEPT = Residence()


def settle(
    name: str, part: Part, alike: Collection[int], needed: int, layer_bytes: int, budget: int, asked: int | None
) -> Residence:
    """How a part is held.

    alike: layers of which one may be read in another's place; those alone are streamed. needed: bytes that the part takes
    with all layers kept. layer_bytes: of them, a layer's weights. asked: how many layers to stream; None: as few as make it
    fit. Raises RequestError if it fits in no way.
    """
    choice = [number for number in part.layers if number in alike]
    count = len(choice)
    if asked is not None and asked > count:
        which = "layers" if count == part.layer_count else "layers in the same form"
        raise RequestError(f'--stream {asked} is more than the {count} {which} of "{part}" of {name}')
    if asked == 0 or (asked is None and needed <= budget):
        streamed = 0
    elif asked is not None:
        streamed = asked
    else:
        streamed = BUFFERS - (budget - needed) // layer_bytes  # rounded up
    most = max(count - 1, asked or 0, 0)  # what is loaded first takes a layer beside the buffers for a moment
    spared = max(0, min(streamed, most) - BUFFERS) * layer_bytes
    if streamed > most or needed - spared > budget:
        least = needed - max(0, most - BUFFERS) * layer_bytes
        raise RequestError(
            f'part "{part}" of {name} needs {format_size(needed)} with its KV, and {format_size(min(needed, least))} with '
            f"{most} of its layers streamed; {format_size(budget)} may be used; pass a smaller --part, or --memory "
            f"{min(needed, least) // 10**6 + 1}MB or more"
        )
    return Residence(spread(choice, streamed), min(BUFFERS, streamed)) if streamed else ALL_KEPT


def spread(layers: Sequence[int], count: int) -> list[int]:
    """So many of some layers, between the others: while those compute, these are read."""
    total = len(layers)
    return [layers[(index + 1) * total // count - 1] for index in range(count)]

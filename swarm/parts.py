"""Parts of a model: the embedding (begin), ranges of layers, the final norm and head (end).

Pure arithmetic. Knows no files, bytes or nodes.

A model of L layers is a row of L + 2 *cells*: cell 0 is begin, cell n + 1 is layer n, cell L + 1 is end.
Placement and routing count in cells, because a chain must cover each cell exactly once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swarm.errors import RequestError

_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")
EXAMPLES = '"f", "b 0-16", "16-32 e", "0-5 30-35"'


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A set of cells: begin, half-open layer ranges (sorted, apart from each other), end."""

    begin: bool = False
    ranges: tuple[tuple[int, int], ...] = ()
    end: bool = False

    def __post_init__(self) -> None:
        previous = -1
        for start, stop in self.ranges:
            if not previous < start < stop:
                raise RequestError(
                    f'layer range "{start}-{stop}" is empty, or overlaps or touches the one before it; '
                    f"ranges are half-open and rise, for example {EXAMPLES}"
                )
            previous = stop

    def __str__(self) -> str:
        words = ["b"] if self.begin else []
        words += [f"{start}-{stop}" for start, stop in self.ranges]
        if self.end:
            words.append("e")
        return " ".join(words)

    @property
    def layers(self) -> list[int]:
        return [layer for start, stop in self.ranges for layer in range(start, stop)]

    @property
    def layer_count(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    def is_empty(self) -> bool:
        return not (self.begin or self.ranges or self.end)

    def covers(self, other: Part) -> bool:
        """Whether every cell of `other` is one of ours."""
        return (
            (self.begin or not other.begin)
            and (self.end or not other.end)
            and all(any(a <= start and stop <= b for a, b in self.ranges) for start, stop in other.ranges)
        )


NOTHING = Part()


def whole(layers: int) -> Part:
    """The part that is the whole model."""
    return Part(True, ((0, layers),), True)


@functools.lru_cache(4096)  # every look at the peer table reads the same few
def parse_part(spec: str, layers: int) -> Part:
    """The part that `spec` names in a model of `layers` layers.

    Raises RequestError naming the value, the limit and an example.
    """
    words = spec.split()
    if words == ["f"]:
        return whole(layers)
    begin = words[:1] == ["b"]
    end = len(words) > begin and words[-1] == "e"
    ranges: list[tuple[int, int]] = []
    for word in words[begin : len(words) - end]:
        match = _RANGE.fullmatch(word)
        if not match:
            raise RequestError(f'part "{spec}": "{word}" is not a layer range; write for example {EXAMPLES}')
        start, stop = int(match[1]), int(match[2])
        if stop > layers:
            raise RequestError(
                f'part "{spec}" exceeds this model\'s {layers} layers; layers are numbered from 0 and ranges are '
                f'half-open, so the last layers are for example "{max(0, layers - 2)}-{layers} e"'
            )
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, stop))
    part = Part(begin, tuple(ranges), end)
    if part.is_empty():
        raise RequestError(f'part "{spec}" names nothing; write for example {EXAMPLES}')
    return part


def part_of_cells(start: int, stop: int, layers: int) -> Part:
    """The part made of cells start..stop (half-open) of a model of `layers` layers."""
    first, last = max(start - 1, 0), min(stop - 1, layers)
    ranges = ((first, last),) if first < last else ()
    return Part(start <= 0 < stop, ranges, stop >= layers + 2)


def part_of(numbers: Iterable[int], layers: int) -> Part:
    """The part made of any cells."""
    rising = sorted(numbers)
    return Part(
        rising[:1] == [0],
        tuple(runs(cell - 1 for cell in rising if 0 < cell <= layers)),
        rising[-1:] == [layers + 1],
    )


def join_parts(parts: Iterable[Part], layers: int) -> Part:
    """Every cell of any of them."""
    return part_of({cell for part in parts for cell in cells(part, layers)}, layers)


def subtract(part: Part, other: Part, layers: int) -> Part:
    """The cells of `part` that are not `other`'s."""
    return part_of(set(cells(part, layers)) - set(cells(other, layers)), layers)


def intersect(part: Part, other: Part, layers: int) -> Part:
    """The cells that both have."""
    return part_of(set(cells(part, layers)) & set(cells(other, layers)), layers)


def cell_ranges(part: Part, layers: int) -> list[tuple[int, int]]:
    """The part's maximal runs of neighbouring cells, half-open, rising."""
    return runs(cells(part, layers))


def cells(part: Part, layers: int) -> list[int]:
    """The part's cells, rising."""
    return [
        *([0] if part.begin else []),
        *(layer + 1 for layer in part.layers),
        *([layers + 1] if part.end else []),
    ]


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Rising numbers gathered into half-open runs of neighbours."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def describe_cells(numbers: Iterable[int], layers: int) -> str:
    """Cells in words, for messages: `begin, layers 3-7, end`."""
    return ", ".join(_words(numbers, layers))


def _words(numbers: Iterable[int], layers: int) -> Iterator[str]:
    for start, stop in runs(numbers):
        part = part_of_cells(start, stop, layers)
        if part.begin:
            yield "begin"
        for first, last in part.ranges:
            yield f"layers {first}-{last}" if last - first > 1 else f"layer {first}"
        if part.end:
            yield "end"

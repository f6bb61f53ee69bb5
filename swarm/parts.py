"""Parts of a model: the embedding (begin), ranges of layers, the final norm and head (end).

Pure arithmetic. Knows no files, bytes or nodes.

A model of L layers is a row of L + 2 *cells*: cell 0 is begin, cell n + 1 is layer n, cell L + 1 is end.
Placement and routing count in cells, because a chain must cover each cell exactly once.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

from swarm.errors import RequestError

_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")
EXAMPLES = '"f", "b 0-16", "16-32 e", "0-5 30-35"'


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A set of cells: begin, half-open layer ranges (sorted, apart from each other), end. Sums and differences as of sets.

    depth: how many layers the model has. What is empty is a part of every model; it has depth 0.
    """

    depth: int = 0
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
        if previous > self.depth:
            raise RequestError(
                f'part "{self}" exceeds this model\'s {self.depth} layers; layers are numbered from 0 and ranges are '
                f'half-open, so the last layers are for example "{max(0, self.depth - 2)}-{self.depth} e"'
            )

    def __str__(self) -> str:
        words = ["b"] if self.begin else []
        words += [f"{start}-{stop}" for start, stop in self.ranges]
        if self.end:
            words.append("e")
        return " ".join(words)

    def __or__(self, other: Part) -> Part:
        if self.is_empty() or other.is_empty():  # most often one is: a node holds one stretch of a model
            return other if self.is_empty() else self
        return part_of({*self.cells, *other.cells}, self._depth_with(other))

    def __and__(self, other: Part) -> Part:
        return part_of(set(self.cells) & set(other.cells), self._depth_with(other))

    def __sub__(self, other: Part) -> Part:
        return part_of(set(self.cells) - set(other.cells), self._depth_with(other))

    def _depth_with(self, other: Part) -> int:
        if self.depth != other.depth and not self.is_empty() and not other.is_empty():
            raise ValueError(f"parts of models of {self.depth} and {other.depth} layers")
        return self.depth or other.depth

    @property
    def layers(self) -> list[int]:
        return [layer for start, stop in self.ranges for layer in range(start, stop)]

    @property
    def layer_count(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    @property
    def cells(self) -> list[int]:
        """Rising."""
        return [
            *([0] if self.begin else []),
            *(layer + 1 for layer in self.layers),
            *([self.depth + 1] if self.end else []),
        ]

    @property
    def cell_ranges(self) -> list[tuple[int, int]]:
        """Maximal runs of neighbouring cells, half-open, rising."""
        return runs(self.cells)

    def is_empty(self) -> bool:
        return not (self.begin or self.ranges or self.end)

    def covers(self, other: Part) -> bool:
        """Whether every cell of `other` is one of ours."""
        return (
            (self.begin or not other.begin)
            and (self.end or not other.end)
            and all(any(a <= start and stop <= b for a, b in self.ranges) for start, stop in other.ranges)
        )

    def describe(self) -> str:
        """In words, for messages: `begin, layers 3-7, end`."""
        words = ["begin"] if self.begin else []
        for first, last in self.ranges:
            words.append(f"layers {first}-{last}" if last - first > 1 else f"layer {first}")
        if self.end:
            words.append("end")
        return ", ".join(words)


NOTHING = Part()


def whole(depth: int) -> Part:
    """The part that is the whole model of `depth` layers."""
    return Part(depth, True, ((0, depth),), True)


@functools.lru_cache(4096)  # every look at the peer table reads the same few
def parse_part(spec: str, depth: int) -> Part:
    """The part that `spec` names in a model of `depth` layers.

    Raises RequestError naming the value, the limit and an example.
    """
    words = spec.split()
    if words == ["f"]:
        return whole(depth)
    begin = words[:1] == ["b"]
    end = len(words) > begin and words[-1] == "e"
    ranges: list[tuple[int, int]] = []
    for word in words[begin : len(words) - end]:
        match = _RANGE.fullmatch(word)
        if not match:
            raise RequestError(f'part "{spec}": "{word}" is not a layer range; write for example {EXAMPLES}')
        start, stop = int(match[1]), int(match[2])
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, stop))
    part = Part(depth, begin, tuple(ranges), end)
    if part.is_empty():
        raise RequestError(f'part "{spec}" names nothing; write for example {EXAMPLES}')
    return part


def part_of_cells(start: int, stop: int, depth: int) -> Part:
    """The part made of cells start..stop (half-open) of a model of `depth` layers."""
    return part_of(range(max(start, 0), min(stop, depth + 2)), depth)


def part_of(cells: Iterable[int], depth: int) -> Part:
    """The part made of any cells of a model of `depth` layers."""
    rising = sorted(cells)
    if not rising:
        return NOTHING
    ranges = tuple(runs(cell - 1 for cell in rising if 0 < cell <= depth))
    return Part(depth, rising[0] == 0, ranges, rising[-1] == depth + 1)


def join_parts(parts: Iterable[Part]) -> Part:
    """Every cell of any of them."""
    return functools.reduce(operator.or_, parts, NOTHING)


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Rising numbers gathered into half-open runs of neighbours."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found

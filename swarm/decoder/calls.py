"""The calls of attention that a packed tensor takes, made once for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from swarm.decoder.description import Decoder
from swarm.decoder.sharing import share_calls
from swarm.decoder.sights import Sight


@dataclass(frozen=True, slots=True)
class Call:
    """Some spans by number, their rows of the packed tensor, and what these see.

    Of several spans each has one position, and the sight's mask a row for each of them.
    """

    spans: Sequence[int]
    rows: slice | Tensor
    sights: Sequence[Sight]


@dataclass(frozen=True, slots=True)
class Calls:
    """order: where the packed rows are among those of the calls, one after another; None if they are in the same places."""

    calls: Sequence[Call]
    order: Tensor | None


def plan_calls(decoder: Decoder, lengths: Sequence[int], sights: Sequence[Sequence[Sight]], item: int) -> Calls:
    """lengths: of the spans. sights: of each. item: bytes of a number."""
    ends = list(accumulate(lengths))
    rows = [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]  # by span
    shared = share_calls([_shared_keys(some) for some in sights], decoder.cache_bytes(item))
    order = [row for spans in shared for span in spans for row in rows[span]]
    is_kept = order == list(range(len(order)))
    calls = [_make_call(spans, [rows[span] for span in spans], [sights[span] for span in spans]) for spans in shared]
    return Calls(calls, None if is_kept else torch.tensor(order).argsort())


def _shared_keys(sights: Sequence[Sight]) -> int:
    """How many a span takes that may share a call: its one position's."""
    (first, *more) = sights
    return first.keys if first.by_group and first.mask is not None and not more else 0


def _make_call(spans: Sequence[int], rows: Sequence[range], sights: Sequence[Sequence[Sight]]) -> Call:
    """rows, sights: of these spans."""
    first, last = rows[0], rows[-1]
    if len(spans) == 1:
        return Call(spans, slice(first.start, first.stop), sights[0])
    seen = [some[0] for some in sights]
    together = replace(seen[0], mask=torch.cat([one.mask for one in seen if one.mask is not None]))
    is_neat = last.stop - first.start == len(spans)
    wanted = slice(first.start, last.stop) if is_neat else torch.tensor([one.start for one in rows])
    return Call(spans, wanted, [together])

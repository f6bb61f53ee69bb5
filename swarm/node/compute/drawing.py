"""Draws what a batch's spans want from the logits of their last rows: tokens, and how likely some are.

Everything comes back as one tensor, a row for each row wanted: the token's id (-1: its logits are not finite), the
log-probability of the given id if any row has one, the likeliest ids and theirs. float64 holds ids and floats exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

import torch
from torch import Tensor

from swarm.node.batches import SAMPLED_ROWS, Drawn, Want, WorkSpan
from swarm.sampling import Draw, Draws


class Drawing(NamedTuple):
    """As many rows as their logits may be large. tensors: what has to be on the device: rows, given ids, what draws need.

    places: of each row among all that the batch wants. top: how many likeliest of each.
    """

    tensors: Sequence[Tensor]
    draws: Draws
    places: Sequence[int]
    has_given: bool
    top: int


def plan_drawings(spans: Sequence[WorkSpan], vocabulary: int) -> list[Drawing]:
    """The rows that a batch draws from, of logits as wide as a vocabulary."""
    wanted: list[tuple[int, Draw, int]] = []  # packed row, draw, given id
    stops = accumulate(span.length for span in spans)
    for want, stop in zip((span.want for span in spans), stops, strict=True):
        if want is not None:
            for index in range(want.rows):
                position = want.position + index
                draw = Draw(want.sampling, position, (want.ids or ())[:position])
                wanted.append((stop - want.rows + index, draw, want.given[index] if want.given else 0))
    wants = [span.want for span in spans if span.want is not None]
    has_given = any(want.given for want in wants)
    top = min(vocabulary, max((want.top for want in wants), default=0))
    drawings: list[Drawing] = []
    for start in range(0, len(wanted), SAMPLED_ROWS):
        some = wanted[start : start + SAMPLED_ROWS]
        draws = Draws([draw for _, draw, _ in some])
        rows = torch.tensor([some[index][0] for index in draws.order])
        given = [torch.tensor([some[index][2] for index in draws.order])] if has_given else []
        places = [start + index for index in draws.order]
        drawings.append(Drawing([rows, *given, *draws.tensors], draws, places, has_given, top))
    return drawings


def draw_rows(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    drawings: Sequence[Drawing],
    placed: Sequence[Tensor],
    *,
    can_count: bool,
) -> Tensor:
    """What all drawings give, [rows, columns] as above, in their order.

    hidden: the batch's, [tokens, hidden]; placed: every drawing's tensors, on the device; can_count: as for Draws.choose.
    """
    is_finite = hidden.isfinite().all()
    left = iter(placed)
    found: list[Tensor] = []
    for drawing in drawings:
        rows, *rest = islice(left, len(drawing.tensors))
        logits = head(hidden.index_select(0, rows))
        settings = rest[1:] if drawing.has_given else rest
        ids = drawing.draws.choose(logits, settings, can_count=can_count)
        columns = [torch.where(is_finite & logits.isfinite().all(-1), ids, -1)[:, None].double()]
        if drawing.has_given or drawing.top:
            logs = logits.log_softmax(-1)
            if drawing.has_given:
                given = torch.where(rest[0] < 0, ids, rest[0])
                columns.append(logs.gather(1, given[:, None]).double())
            if drawing.top:
                likeliest = logs.topk(drawing.top)
                columns += [likeliest.indices.double(), likeliest.values.double()]
        found.append(columns[0] if len(columns) == 1 else torch.cat(columns, 1))
    return found[0] if len(found) == 1 else torch.cat(found)


def collect(wants: Sequence[Want], drawings: Sequence[Drawing], fetched: Tensor) -> tuple[Drawn, ...]:
    """What each want got. fetched: what draw_rows gave. Raises ArithmeticError where logits are not finite."""
    has_given, top = drawings[0].has_given, drawings[0].top
    places = [place for drawing in drawings for place in drawing.places]
    rows = [row for _, row in sorted(zip(places, fetched.tolist(), strict=True))]
    if any(row[0] < 0 for row in rows):
        raise ArithmeticError(
            "hidden states or logits hold NaN or infinity; check the weights with swarm-weights verify"
        )
    left = iter(rows)
    return tuple(_read(want, list(islice(left, want.rows)), has_given, top) for want in wants)


def _read(want: Want, rows: Sequence[Sequence[float]], has_given: bool, top: int) -> Drawn:
    first = 2 if has_given else 1
    return Drawn(
        tuple(int(row[0]) for row in rows),
        tuple(row[1] for row in rows) if want.given else (),
        tuple(
            tuple((int(row[first + rank]), row[first + top + rank]) for rank in range(min(want.top, top)))
            for row in rows
        )
        if want.top
        else (),
    )

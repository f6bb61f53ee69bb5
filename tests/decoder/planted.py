"""Mistakes that only show on a card: something that should lie there is left in the machine's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from swarm.decoder import positions, sights
from swarm.decoder.norms import LayerNorm
from swarm.decoder.positions import PositionTables

HOST = torch.device("cpu")


@contextmanager
def replaced(owner: Any, name: str, made: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, lambda *args: made(before, *args))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _table_on_host(make: Callable[..., Any], rope: Any, turning: Tensor, positions: Tensor, dtype: torch.dtype) -> Any:
    turning = torch.ones(turning.shape, device=HOST)
    return make(rope, turning, torch.arange(positions.shape[0], device=HOST), dtype)


def _mask_on_host(
    make: Callable[..., Any], tables: Any, first: int, last: int, rows: int, keys: int, dtype: Any, window: Any
) -> Any:
    made = make(tables, first, last, rows, keys, dtype, window)
    return None if made is None else torch.zeros(rows, keys, dtype=dtype, device=HOST)


def _norm_on_host(make: Callable[..., Any], norm: LayerNorm, x: Tensor) -> Tensor:
    weight = torch.ones(norm.weight.shape, dtype=x.dtype, device=HOST)
    return torch.nn.functional.layer_norm(x, norm.weight.shape, weight, norm.bias, norm.epsilon)


# name → the variant that shows it, and what makes it
MISTAKES: dict[str, tuple[str, Callable[[], Any]]] = {
    "mask": ("mistral", lambda: replaced(sights, "_mask", _mask_on_host)),
    "table": ("40b", lambda: replaced(positions, "rotation_of", _table_on_host)),
    "slope": ("rw", lambda: replaced(positions, "alibi_slopes", lambda make, heads, _: make(heads, HOST))),
    "bias": ("rw", lambda: replaced(PositionTables, "bias", lambda make, *args: torch.zeros(make(*args).shape))),
    "norm": ("7b", lambda: replaced(LayerNorm, "forward", _norm_on_host)),
}

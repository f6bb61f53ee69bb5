"""Layers and heads of tensors that are made in memory, not read: for looking at what they do at true sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from swarm.decoder.description import Decoder, Slot
from swarm.decoder.layer import Head, Layer
from swarm.decoder.linear import PlainLinear
from swarm.decoder.norms import make_norm

Make = Callable[[tuple[int, ...]], Tensor]  # a tensor of a shape


def make_layer(decoder: Decoder, number: int, make: Make) -> Layer:
    return Layer(decoder, number, {role: _fill(decoder, slots, make) for role, slots in decoder.fillings.items()})


def make_head(decoder: Decoder, make: Make) -> Head:
    return Head(decoder, _fill(decoder, [decoder.final_norm], make), _fill(decoder, [decoder.head], make))


def _fill(decoder: Decoder, slots: Sequence[Slot], make: Make) -> nn.Module:
    rows = sum(slot.shape[0] for slot in slots)
    bias = make((rows,)) if slots[0].has_bias else None
    if slots[0].matrix is not None:
        return PlainLinear(make((rows, slots[0].shape[1])), bias)
    return make_norm(decoder, make(slots[0].shape), bias)

"""Layers and heads of tensors that are made in memory, not read: for looking at what they do at true sizes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from swarm.decoder.description import Decoder, Slot
from swarm.decoder.layer import Head, Layer, Norm
from swarm.decoder.linear import PlainLinear

Make = Callable[[tuple[int, ...]], Tensor]  # a tensor of a shape


def make_layer(decoder: Decoder, number: int, make: Make) -> Layer:
    return Layer(decoder, number, {role: _fill(decoder, slot, make) for role, slot in decoder.slots.items()})


def make_head(decoder: Decoder, make: Make) -> Head:
    return Head(_fill(decoder, decoder.final_norm, make), _fill(decoder, decoder.head, make))


def _fill(decoder: Decoder, slot: Slot, make: Make) -> nn.Module:
    weight, bias = make(slot.shape), make(slot.shape[:1]) if slot.has_bias else None
    return Norm(weight, bias, decoder.epsilon) if slot.matrix is None else PlainLinear(weight, bias)

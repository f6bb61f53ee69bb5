"""Layers and heads of tensors that are made in memory, not read: for looking at what they do at true sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from swarm.decoder.description import Decoder, Slot
from swarm.decoder.device import Device
from swarm.decoder.layer import Head, Layer, Span
from swarm.decoder.linear import PlainLinear
from swarm.decoder.norms import make_norm
from swarm.decoder.part import DecoderPart
from swarm.decoder.shelf import ResidentShelf
from swarm.parts import Part

Make = Callable[[tuple[int, ...]], Tensor]  # a tensor of a shape


def make_layer(decoder: Decoder, number: int, make: Make, device: Device) -> Layer:
    filled = {role: _fill(decoder, slots, make, device) for role, slots in decoder.fillings.items()}
    return Layer(decoder, number, filled)


def make_head(decoder: Decoder, make: Make, device: Device) -> Head:
    norm, projection = (_fill(decoder, [slot], make, device) for slot in (decoder.final_norm, decoder.head))
    return Head(decoder, norm, projection)


def _fill(decoder: Decoder, slots: Sequence[Slot], make: Make, device: Device) -> nn.Module:
    rows = sum(slot.shape[0] for slot in slots)
    bias = make((rows,)) if slots[0].has_bias else None
    if slots[0].matrix is not None:
        return PlainLinear(make((rows, slots[0].shape[1])), bias)
    return make_norm(decoder, make(slots[0].shape), bias, device)


def make_part(decoder: Decoder, device: Device, layers: int, make: Make) -> tuple[DecoderPart, Head]:
    """Layers, and an end, of tensors on a device."""
    made = [make_layer(decoder, number, make, device) for number in range(layers)]
    head = make_head(decoder, make, device)
    part = Part(layers, ranges=((0, layers),), end=True)
    return DecoderPart(decoder, part, None, ResidentShelf(made), head, torch.bfloat16, device), head


def filled(part: DecoderPart, positions: int, length: int) -> Span:
    """New positions of a session that has so many in its cache, and may have as many as the context."""
    cache = part.new_cache()
    decoder = part.decoder
    shape = (2, decoder.kv_heads, positions, decoder.head_dim)
    for layer in part.part.layers:
        cache.write(layer, torch.zeros(shape, dtype=part.dtype, device=part.device.where))
    cache.advance(positions)
    return Span(cache, length)

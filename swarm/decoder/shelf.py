"""Lends layers in the order in which they will be needed. Whoever computes asks the shelf and never a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch import nn

from swarm.decoder.layer import Layer


class Shelf(nn.Module):
    """Some layers of a decoder."""

    @property
    def resident(self) -> Mapping[int, Layer]:
        """By number, those that are kept in the device's memory."""
        raise NotImplementedError

    def lend(self, numbers: Sequence[int]) -> Iterator[Layer]:
        """These layers, one after another; each may be used until the next one is asked for."""
        raise NotImplementedError


class ResidentShelf(Shelf):
    """Layers that are all kept."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._places = {layer.number: place for place, layer in enumerate(layers)}

    @property
    def resident(self) -> Mapping[int, Layer]:
        return {number: cast(Layer, self.layers[place]) for number, place in self._places.items()}

    def lend(self, numbers: Sequence[int]) -> Iterator[Layer]:
        return (cast(Layer, self.layers[self._places[number]]) for number in numbers)

"""Lends layers in the order in which they will be needed. Whoever computes asks the shelf and never a list."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import cast

from torch import nn

from swarm.decoder.direct import Tick
from swarm.decoder.layer import Layer
from swarm.decoder.streaming import Reads, StreamedLayers


class Shelf(nn.Module):
    """Some layers of a decoder."""

    @property
    def resident(self) -> Mapping[int, Layer]:
        """By number, those that are kept in the device's memory."""
        raise NotImplementedError

    @property
    def streamed(self) -> StreamedLayers | None:
        """Those that are not, if there are any."""
        return None

    @property
    def reads(self) -> Reads:
        """What has been read, if anything is."""
        return Reads()

    def lend(self, numbers: Sequence[int], runs: int = 1, on_read: Tick = lambda: None) -> Generator[Layer]:
        """These layers, one after another; each may be used until the next one is asked for, or this is closed.

        runs: how often each will be run. on_read: called now and then while one is waited for, if something is read.
        """
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

    def lend(self, numbers: Sequence[int], runs: int = 1, on_read: Tick = lambda: None) -> Generator[Layer]:
        return (cast(Layer, self.layers[self._places[number]]) for number in numbers)


class StreamingShelf(Shelf):
    """Layers of which some are kept and the others come from disk, each time they are needed."""

    def __init__(self, kept: Sequence[Layer], streamed: StreamedLayers) -> None:
        super().__init__()
        self._kept = ResidentShelf(kept)
        self._streamed = streamed

    @property
    def resident(self) -> Mapping[int, Layer]:
        return self._kept.resident

    @property
    def streamed(self) -> StreamedLayers:
        return self._streamed

    @property
    def reads(self) -> Reads:
        return self.streamed.reads

    def lend(self, numbers: Sequence[int], runs: int = 1, on_read: Tick = lambda: None) -> Generator[Layer]:
        kept = self.resident
        for number in numbers:
            if number in kept:
                yield kept[number]
            else:
                with self.streamed.lend(number, runs, on_read) as layer:
                    yield layer

"""Products with matrices whose numbers are made plain for each product, some rows at a time: any device can do it."""

from __future__ import annotations

from torch import Tensor

from swarm.decoder.device import Device
from swarm.decoder.linear import Linear, plain_linear
from swarm.decoder.scheme import TILE_NUMBERS


class UnpackedLinear(Linear):
    """y = x W^T + b with a W that is stored otherwise."""

    bias: Tensor | None
    rows: int  # of the matrix

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def plain(self, first: int, stop: int, x: Tensor) -> Tensor:
        """Some rows of W, [stop - first, in], for a product with x: in its type."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        step = max(1, TILE_NUMBERS // x.shape[1])
        if step >= self.rows:
            y = self._product(0, self.rows, x)
        else:
            y = x.new_empty((len(x), self.rows))
            for first in range(0, self.rows, step):
                stop = min(first + step, self.rows)
                y[:, first:stop] = self._product(first, stop, x)
        return y if self.bias is None else y + self.bias

    def _product(self, first: int, stop: int, x: Tensor) -> Tensor:
        """As plain matrices are multiplied with, so that a row has the same bits in any company where theirs have."""
        return plain_linear(self.plain(first, stop, x), None, self._device)(x)

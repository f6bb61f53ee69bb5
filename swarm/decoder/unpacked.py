"""Products with matrices whose numbers are made plain for each product, some rows at a time: any device can do it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swarm.decoder.linear import Linear

TILE_NUMBERS = 4 << 20  # are plain at a time


class UnpackedLinear(Linear):
    """y = x W^T + b with a W that is stored otherwise."""

    bias: Tensor | None
    rows: int  # of the matrix

    def plain(self, first: int, stop: int, x: Tensor) -> Tensor:
        """Some rows of W, [stop - first, in], for a product with x: in its type."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        step = max(1, TILE_NUMBERS // x.shape[1])
        tiles = [
            nn.functional.linear(x, self.plain(first, min(first + step, self.rows), x))
            for first in range(0, self.rows, step)
        ]
        y = tiles[0] if len(tiles) == 1 else torch.cat(tiles, 1)
        return y if self.bias is None else y + self.bias

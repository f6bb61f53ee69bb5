"""Products with matrices whose numbers are made plain for each product, some rows at a time: any device can do it."""

from __future__ import annotations

from torch import Tensor, nn

from swarm.decoder.linear import Linear
from swarm.decoder.scheme import TILE_NUMBERS


class UnpackedLinear(Linear):
    """y = x W^T + b with a W that is stored otherwise."""

    bias: Tensor | None
    rows: int  # of the matrix

    def plain(self, first: int, stop: int, x: Tensor) -> Tensor:
        """Some rows of W, [stop - first, in], for a product with x: in its type."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        step = max(1, TILE_NUMBERS // x.shape[1])
        if step >= self.rows:
            y = nn.functional.linear(x, self.plain(0, self.rows, x))
        else:
            y = x.new_empty((len(x), self.rows))
            for first in range(0, self.rows, step):
                stop = min(first + step, self.rows)
                y[:, first:stop] = nn.functional.linear(x, self.plain(first, stop, x))
        return y if self.bias is None else y + self.bias

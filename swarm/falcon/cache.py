"""The keys and values that one session has computed in some layers.

Belongs to a session, never to a module. K and V are stored unbroadcast, each layer's in one contiguous buffer that
doubles up to the positions reserved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.falcon.config import FalconConfig

FIRST_POSITIONS = 64


@dataclass(slots=True)
class _Layer:
    keys: Tensor  # [kv heads, capacity, head dim]
    values: Tensor


class Cache:
    """KV of one session: absolute layer → buffers. `end` is the number of positions that every layer holds."""

    def __init__(
        self, config: FalconConfig, layers: Iterable[int], reserve: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        """reserve: positions that the session may use at most."""
        self.reserve = reserve
        self.end = 0
        self._config = config
        self._dtype = dtype
        self._device = device
        empty = self._buffer(0)
        self._layers = {layer: _Layer(empty, empty) for layer in layers}

    def _buffer(self, positions: int) -> Tensor:
        shape = (self._config.kv_heads, positions, self._config.head_dim)
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return sum(
            layer.keys.numel() * layer.keys.element_size() + layer.values.numel() * layer.values.element_size()
            for layer in self._layers.values()
        )

    def truncate(self, end: int) -> None:
        """Forget every position from `end` on."""
        self.end = min(self.end, end)

    def extend(self, reserve: int) -> None:
        """Allow at least `reserve` positions."""
        self.reserve = max(self.reserve, reserve)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put [kv, new, d] behind `end` in one layer; return that layer's K and V, [kv, end + new, d].

        `end` itself moves in `advance`, once every layer has written.
        """
        stop = self.end + keys.shape[1]
        buffers = self._layers[layer]
        if stop > buffers.keys.shape[1]:
            capacity = min(max(FIRST_POSITIONS, 2 * buffers.keys.shape[1], stop), max(self.reserve, stop))
            for name in ("keys", "values"):
                grown = self._buffer(capacity)
                grown[:, : self.end] = getattr(buffers, name)[:, : self.end]
                setattr(buffers, name, grown)
        buffers.keys[:, self.end : stop] = keys
        buffers.values[:, self.end : stop] = values
        return buffers.keys[:, :stop], buffers.values[:, :stop]

    def advance(self, count: int) -> None:
        self.end += count

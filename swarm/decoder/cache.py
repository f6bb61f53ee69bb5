"""The keys and values that one session has computed in some layers.

Belongs to a session, never to a module. K and V are stored unbroadcast, both of a layer in one contiguous buffer that
doubles up to the positions reserved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from swarm.decoder.description import Decoder
from swarm.decoder.device import Device
from swarm.decoder.sights import padded_keys

FIRST_POSITIONS = 64


class KvCache(Protocol):
    """Keys and values of one session in some layers. `length` is how many positions every layer holds."""

    length: int

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        ...

    def extend(self, reserve: int) -> None:
        """Allow at least `reserve` positions."""
        ...

    def write(self, layer: int, fresh: Tensor) -> Tensor:
        """Put keys and values, [2, kv, new, d], behind what one layer has; return all of them.

        They are [2, kv, padded_keys(length + new), d], finite where they are padded. `length` itself moves in `advance`,
        once every layer has written. What fails for want of memory may be tried again.
        """
        ...

    def advance(self, count: int) -> None:
        """Every layer has written so many positions."""
        ...


class ContiguousCache:
    """A buffer a layer, as the CPU's kernels want it: absolute layer → [2, kv heads, capacity, head dim]."""

    def __init__(
        self,
        decoder: Decoder,
        layers: Iterable[int],
        reserve: int,
        dtype: torch.dtype,
        device: Device,
    ) -> None:
        """reserve: positions that the session may use at most."""
        self.reserve = reserve
        self.length = 0
        self._decoder = decoder
        self._dtype = dtype
        self._device = device
        self._layers = dict.fromkeys(layers, self._buffer(0))

    def _buffer(self, positions: int) -> Tensor:
        shape = (2, self._decoder.kv_heads, positions, self._decoder.head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device.where)

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return sum(buffer.nbytes for buffer in self._layers.values())

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)

    def extend(self, reserve: int) -> None:
        self.reserve = max(self.reserve, reserve)

    def write(self, layer: int, fresh: Tensor) -> Tensor:
        stop = self.length + fresh.shape[2]
        buffer = self._layers[layer]
        if stop > buffer.shape[2]:
            buffer = self._layers[layer] = self._grown(buffer, self._capacity(buffer.shape[2], stop))
        buffer[:, :, self.length : stop] = fresh
        wanted, capacity = padded_keys(stop, self._device), buffer.shape[2]
        if wanted > capacity:
            return pad(buffer[:, :, :stop], (0, 0, 0, wanted - stop))
        return buffer if wanted == capacity else buffer[:, :, :wanted]

    def _capacity(self, now: int, stop: int) -> int:
        """What a buffer grows to: whole blocks of keys, unless all that is reserved is less than one."""
        most = max(self.reserve, stop)
        grown = min(max(FIRST_POSITIONS, 2 * now, stop), most)
        return grown if most < self._device.key_block else padded_keys(grown, self._device)

    def _grown(self, buffer: Tensor, capacity: int) -> Tensor:
        grown = self._buffer(capacity)
        grown[:, :, : self.length] = buffer[:, :, : self.length]
        return grown

    def advance(self, count: int) -> None:
        self.length += count

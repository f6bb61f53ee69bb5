"""The keys and values that one session has computed in some layers.

Belongs to a session, never to a module. K and V are stored unbroadcast, each layer's in one contiguous buffer that
doubles up to the positions reserved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from swarm.decoder.description import Decoder
from swarm.decoder.device import Device
from swarm.decoder.sights import padded_keys

FIRST_POSITIONS = 64


class Scratch:
    """Where sessions that reserve less than a block of keys are padded to one, one layer after the other.

    Made when it is first needed: where attention takes keys one by one it never is.
    """

    def __init__(self, decoder: Decoder, dtype: torch.dtype, device: Device) -> None:
        self._shape = (2, decoder.kv_heads, device.key_block, decoder.head_dim)
        self._dtype = dtype
        self._device = device
        self._block: Tensor | None = None

    def pad(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """[kv, stop, d] → [kv, a block of keys, d], valid until the next call."""
        if self._block is None:
            self._block = torch.empty(self._shape, dtype=self._dtype, device=self._device.where)
        block, stop = self._block, keys.shape[1]
        block[0, :, :stop] = keys
        block[1, :, :stop] = values
        block[:, :, stop:] = 0  # another session's may not be finite
        return block[0], block[1]


@dataclass(slots=True)
class _Layer:
    keys: Tensor  # [kv heads, capacity, head dim]
    values: Tensor


class KvCache(Protocol):
    """Keys and values of one session in some layers. `length` is how many positions every layer holds."""

    length: int

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        ...

    def extend(self, reserve: int) -> None:
        """Allow at least `reserve` positions."""
        ...

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put [kv, new, d] behind what one layer has; return its K and V, [kv, padded_keys(length + new), d].

        What is padded is finite. They are valid until the next call. `length` itself moves in `advance`, once every layer
        has written. What fails for want of memory may be tried again.
        """
        ...

    def advance(self, count: int) -> None:
        """Every layer has written so many positions."""
        ...


class ContiguousCache:
    """A buffer a layer, as the CPU's kernels want it: absolute layer → keys and values."""

    def __init__(
        self,
        decoder: Decoder,
        layers: Iterable[int],
        reserve: int,
        dtype: torch.dtype,
        device: Device,
        scratch: Scratch,
    ) -> None:
        """reserve: positions that the session may use at most."""
        self.reserve = reserve
        self.length = 0
        self._decoder = decoder
        self._dtype = dtype
        self._device = device
        self._scratch = scratch
        empty = self._buffer(0)
        self._layers = {layer: _Layer(empty, empty) for layer in layers}

    def _buffer(self, positions: int) -> Tensor:
        shape = (self._decoder.kv_heads, positions, self._decoder.head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device.where)

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return sum(
            layer.keys.numel() * layer.keys.element_size() + layer.values.numel() * layer.values.element_size()
            for layer in self._layers.values()
        )

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)

    def extend(self, reserve: int) -> None:
        self.reserve = max(self.reserve, reserve)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        stop = self.length + keys.shape[1]
        buffers = self._layers[layer]
        if stop > buffers.keys.shape[1]:
            self._grow(buffers, self._capacity(buffers.keys.shape[1], stop))
        buffers.keys[:, self.length : stop] = keys
        buffers.values[:, self.length : stop] = values
        wanted = padded_keys(stop, self._device)
        if wanted > buffers.keys.shape[1]:
            return self._scratch.pad(buffers.keys[:, :stop], buffers.values[:, :stop])
        return buffers.keys[:, :wanted], buffers.values[:, :wanted]

    def _capacity(self, now: int, stop: int) -> int:
        """What a buffer grows to: whole blocks of keys, unless all that is reserved is less than one."""
        most = max(self.reserve, stop)
        grown = min(max(FIRST_POSITIONS, 2 * now, stop), most)
        return grown if most < self._device.key_block else padded_keys(grown, self._device)

    def _grow(self, buffers: _Layer, capacity: int) -> None:
        """Both or neither: what fails for want of memory may be tried again."""
        keys, values = self._buffer(capacity), self._buffer(capacity)
        keys[:, : self.length] = buffers.keys[:, : self.length]
        values[:, : self.length] = buffers.values[:, : self.length]
        buffers.keys, buffers.values = keys, values

    def advance(self, count: int) -> None:
        self.length += count

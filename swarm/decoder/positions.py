"""What depends on positions alone: rotations, ALiBi's biases, masks. Computed once, for as many positions as needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.decoder.description import Decoder, Rope
from swarm.decoder.device import Device

Rotation = tuple[Tensor, Tensor]  # cosines, and sines with the signs with which the other half of a head is added


class PositionTables:
    """Of one decoder on one device."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype, device: Device) -> None:
        self.device = device
        self._decoder = decoder
        self._dtype = dtype
        self._frequencies = device.place([frequencies(rope) for rope in decoder.ropes])
        self._rotations: dict[int, Rotation] = {}
        self._bias = torch.empty(0, 0)
        self._masks: dict[int | None, tuple[int, Tensor]] = {}

    def rotation(self, number: int, ranges: Sequence[tuple[int, int]]) -> Rotation:
        """cos and sin of one of the decoder's ropes for the positions in some ranges, one after another,
        [positions, 1, 1, rotated].
        """
        most = max(stop for _, stop in ranges)
        known = self._rotations.get(number)
        if known is None or most > known[0].shape[0]:
            positions = torch.arange(_at_least(most), device=self.device.where)
            rope, turning = self._decoder.ropes[number], self._frequencies[number]
            known = self._rotations[number] = rotation_of(rope, turning, positions, self._dtype)
        cos, sin = (_rows(table, ranges)[:, None, None] for table in known)
        return cos, sin

    def bias(self, stop: int) -> Tensor | None:
        """[heads, stop], to be added to the scores; None without ALiBi."""
        if not self._decoder.alibi:
            return None
        if stop > self._bias.shape[1]:
            self._bias = alibi_bias(self._decoder, _at_least(stop), self._dtype, self.device.where)
        return self._bias[:, :stop]

    def mask(self, stop: int, keys: int, window: int | None) -> Tensor:
        """[1, keys], additive: what the last of `stop` positions sees; of the keys behind it there is at most a block."""
        seen, mask = self._masks.get(window, (0, torch.empty(0)))
        if stop > seen:
            seen = _at_least(stop)
            mask = torch.zeros(seen + self.device.key_block, dtype=self._dtype, device=self.device.where)
            mask[seen:] = float("-inf")
            if window is not None:
                mask[: seen - window] = float("-inf")
            self._masks[window] = seen, mask
        return mask[None, seen - stop : seen - stop + keys]


def _at_least(stop: int) -> int:
    """A table's length: it is computed anew a few times only."""
    return max(512, 1 << (stop - 1).bit_length())


def _rows(table: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    rows = [table[start:stop] for start, stop in ranges]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def rotation_of(rope: Rope, turning: Tensor, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """cos and sin, [tokens, rotated], for integer positions. turning: the rope's frequencies.

    Computed in float32: bfloat16 cannot tell position 1001 from 1000.
    """
    angles = positions.to(torch.float32)[:, None] * turning
    cos, sin = torch.cat((angles, angles), dim=-1).cos(), torch.cat((-angles, angles), dim=-1).sin()
    if rope.scale != 1.0:
        cos, sin = cos * rope.scale, sin * rope.scale
    return cos.to(dtype), sin.to(dtype)


def frequencies(rope: Rope) -> Tensor:
    """[rotated / 2] float32: how far each pair of dims turns from one position to the next.

    The order of operations is that of the models' authors, so that the last bits agree, too.
    """
    exponents = torch.arange(0, rope.rotated, 2, dtype=torch.float32) / rope.rotated
    powers = rope.theta**exponents
    match rope.kind:
        case "default":
            return 1.0 / powers
        case "linear":
            return 1.0 / powers / rope.factor
        case "llama3":
            return _by_wavelength(rope, 1.0 / powers)
        case "yarn":
            return _by_turns(rope, powers)
        case "longrope":
            return 1.0 / (torch.tensor(rope.stretch, dtype=torch.float32) * powers)


def _by_wavelength(rope: Rope, plain: Tensor) -> Tensor:
    """Slowed is what turns less than once in original / low positions; not so what does in original / high (Llama 3)."""
    wavelengths = 2 * math.pi / plain
    share = (rope.original / wavelengths - rope.low) / (rope.high - rope.low)
    blended = (1 - share) * plain / rope.factor + share * plain
    slowed = torch.where(wavelengths > rope.original / rope.low, plain / rope.factor, plain)
    is_between = (wavelengths <= rope.original / rope.low) & (wavelengths >= rope.original / rope.high)
    return torch.where(is_between, blended, slowed)


def _by_turns(rope: Rope, powers: Tensor) -> Tensor:
    """Dims are slowed the more the less they turn within the original context (Peng et al. 2023, arXiv:2309.00071)."""

    def find_dim(turns: float) -> float:
        return rope.rotated * math.log(rope.original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = find_dim(rope.high), find_dim(rope.low)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.rotated - 1)
    if first == last:
        last += 0.001
    dims = torch.arange(rope.rotated // 2, dtype=torch.float32)
    kept = 1 - torch.clamp((dims - first) / (last - first), 0, 1)
    return 1.0 / (rope.factor * powers) * (1 - kept) + 1.0 / powers * kept


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """[heads] float32 slopes (Press et al. 2021, https://arxiv.org/abs/2108.12409)."""
    closest = 2 ** math.floor(math.log2(heads))
    slopes = _powers(2 ** (-(2 ** -(math.log2(closest) - 3))), 1 + closest, 1, device)
    if closest == heads:
        return slopes
    odd = _powers(2 ** (-(2 ** -(math.log2(2 * closest) - 3))), 1 + 2 * (heads - closest), 2, device)
    return torch.cat((slopes, odd))


def _powers(base: float, stop: int, step: int, device: torch.device) -> Tensor:
    """base to the powers 1, 1 + step, … below stop, made on the device itself."""
    exponents = torch.arange(1, stop, step, dtype=torch.int32, device=device)
    return torch.pow(torch.full((), base, dtype=torch.float32, device=device), exponents)


def alibi_bias(decoder: Decoder, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[heads, stop], scaled as the scores are.

    The product slope x position is rounded to bfloat16: the checkpoints were trained so.
    """
    slopes = alibi_slopes(decoder.heads, device).to(torch.bfloat16)
    positions = torch.arange(stop, device=device)
    bias = (slopes[:, None] * positions).to(dtype)
    return bias / math.sqrt(decoder.head_dim)

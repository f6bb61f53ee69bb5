"""Attention of one session's new positions over its cache, with RoPE or ALiBi.

Knows one session at a time: batch mates never meet here, which is what makes an answer independent of them.

On a CPU a position's result has the same bits however its sequence is cut into steps. torch's kernel takes keys in blocks of
512 and queries in blocks of 32 or more, and rounds otherwise where the last block of keys ends elsewhere, where a block of
queries has fewer than four rows, where there is no mask, or where a single block is all there is (then the product inside it
is spread over the cores). So each position takes as many keys as its own number decides, a multiple of 64 (of 512 cost
prompts a tenth more); positions that take different numbers of keys are computed apart; queries are padded to a multiple of
four; what is padded is masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from swarm.decoder.description import KEY_BLOCK, Decoder

QUERY_BLOCK = 32
LEAST_ROWS = 4
# Masks are at most so many rows of keys: with ALiBi they differ from head to head, and are made for a few heads at a time.
MOST_MASK_ROWS = 512


def split_fused(decoder: Decoder, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[tokens, fused width] → queries [heads, tokens, d], keys and values [kv heads, tokens, d]."""
    d, kv = decoder.head_dim, decoder.kv_heads
    match decoder.fused:
        case "grouped":
            grouped = rearrange(fused, "t (kv slot d) -> kv slot t d", kv=kv, d=d)
            return rearrange(grouped[:, :-2], "kv g t d -> (kv g) t d"), grouped[:, -2], grouped[:, -1]
        case "multi_query":
            flat = rearrange(fused, "t (slot d) -> slot t d", d=d)
            return flat[:-2], flat[-2:-1], flat[-1:]
        case "per_head":
            triples = rearrange(fused, "t (h three d) -> three h t d", three=3, d=d)
            return triples[0], triples[1], triples[2]


def padded_keys(stop: int, device: torch.device | str) -> int:
    """How many keys the last of `stop` positions takes."""
    return -(-stop // KEY_BLOCK) * KEY_BLOCK if torch.device(device).type == "cpu" else stop


class PositionTables:
    """What depends on positions alone: RoPE's cosines and sines, or ALiBi's biases. Computed once, for as many as needed."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype, device: torch.device | str) -> None:
        self._decoder = decoder
        self._dtype = dtype
        self._device = device
        self._rope = (torch.empty(0), torch.empty(0))
        self._bias = torch.empty(0, 0)

    def rope(self, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """cos and sin of positions start..stop, [stop - start, d]; None with ALiBi."""
        if self._decoder.alibi:
            return None
        if stop > self._rope[0].shape[0]:
            positions = torch.arange(_at_least(stop), device=self._device)
            self._rope = rope_tables(self._decoder, positions, self._dtype)
        cos, sin = self._rope
        return cos[start:stop], sin[start:stop]

    def bias(self, stop: int) -> Tensor | None:
        """[heads, stop], to be added to the scores; None with RoPE."""
        if not self._decoder.alibi:
            return None
        if stop > self._bias.shape[1]:
            self._bias = alibi_bias(self._decoder, _at_least(stop), self._dtype, self._device)
        return self._bias[:, :stop]


def _at_least(stop: int) -> int:
    """A table's length: it is computed anew a few times only."""
    return max(512, 1 << (stop - 1).bit_length())


def rope_tables(decoder: Decoder, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, [tokens, d], for integer positions.

    Computed in float32: bfloat16 cannot tell position 1001 from 1000.
    """
    exponents = torch.arange(0, decoder.head_dim, 2, dtype=torch.float32, device=positions.device) / decoder.head_dim
    frequencies = 1.0 / (decoder.rope_theta**exponents)
    angles = positions.to(torch.float32)[:, None] * frequencies
    doubled = torch.cat((angles, angles), dim=-1)
    return doubled.cos().to(dtype), doubled.sin().to(dtype)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Apply RoPE (rotate-half over the whole head) to [heads, tokens, d]."""
    cos, sin = tables
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def alibi_slopes(heads: int) -> Tensor:
    """[heads] float32 slopes (Press et al. 2021, https://arxiv.org/abs/2108.12409)."""
    closest = 2 ** math.floor(math.log2(heads))
    base = torch.tensor(2 ** (-(2 ** -(math.log2(closest) - 3))), dtype=torch.float32)
    slopes = torch.pow(base, torch.arange(1, 1 + closest, dtype=torch.int32))
    if closest == heads:
        return slopes
    extra_base = torch.tensor(2 ** (-(2 ** -(math.log2(2 * closest) - 3))), dtype=torch.float32)
    odd = torch.arange(1, 1 + 2 * (heads - closest), 2, dtype=torch.int32)
    return torch.cat((slopes, torch.pow(extra_base, odd)))


def alibi_bias(decoder: Decoder, stop: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """[heads, stop], scaled as the scores are.

    The product slope x position is rounded to bfloat16: the checkpoints were trained so.
    """
    slopes = alibi_slopes(decoder.heads).to(device, torch.bfloat16)
    positions = torch.arange(stop, device=device)
    bias = (slopes[:, None] * positions).to(dtype)
    return bias / math.sqrt(decoder.head_dim)


@dataclass(frozen=True, slots=True)
class Sight:
    """What some neighbouring new positions may look at; made once for all layers.

    start, stop: which of a span's rows. keys: how many they take, padding included. rows: of queries a head, likewise; 0
    where the heads of a group are the rows of one kv head. mask: additive, [rows, keys], or [1, keys] where all rows see the
    same; None where that is all. bias: ALiBi's, [heads, keys].
    """

    start: int
    stop: int
    rows: int
    keys: int
    mask: Tensor | None
    bias: Tensor | None


def look_back(decoder: Decoder, tables: PositionTables, start: int, stop: int, like: Tensor) -> list[Sight]:
    """What positions start..stop see, in the dtype and on the device of `like`."""
    sights: list[Sight] = []
    first = start
    while first < stop:
        last = min(stop, padded_keys(first + 1, like.device)) if like.device.type == "cpu" else stop
        keys = padded_keys(last, like.device)
        rows = _rows_of(decoder, last - first, like.device)
        mask = _mask(first, last - first, max(1, rows), keys, like)
        sights.append(Sight(first - start, last - start, rows, keys, mask, tables.bias(keys)))
        first = last
    return sights


def _rows_of(decoder: Decoder, length: int, device: torch.device) -> int:
    if length > 1:
        return -(-length // LEAST_ROWS) * LEAST_ROWS if device.type == "cpu" else length
    rows = max(decoder.heads // decoder.kv_heads, LEAST_ROWS)
    has_blocks = decoder.kv_heads * -(-rows // QUERY_BLOCK) > 1  # of queries, more than one
    return 0 if has_blocks else LEAST_ROWS


def _mask(start: int, length: int, rows: int, keys: int, like: Tensor) -> Tensor | None:
    """Hides what comes after each of `length` positions; rows beyond them see what the last one sees."""
    if length == 1 and like.device.type != "cpu":
        return None
    mask = torch.full((length, keys), float("-inf"), dtype=like.dtype, device=like.device).triu_(start + 1)
    return mask if length == 1 or rows == length else torch.cat((mask, mask[-1:].expand(rows - length, -1)))


def attend(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, sights: Sequence[Sight]) -> Tensor:
    """Causal attention of the last positions over all of k and v.

    q: [heads, new, d]; k, v: [kv heads, as many keys as the last sight has, d], finite where they are padded; returns
    [new, heads * d].
    """
    if len(sights) == 1:
        return _attend(decoder, q, k, v, sights[0])
    outputs = [
        _attend(decoder, q[:, sight.start : sight.stop], k[:, : sight.keys], v[:, : sight.keys], sight)
        for sight in sights
    ]
    return torch.cat(outputs)


def _attend(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
    group = decoder.heads // decoder.kv_heads
    if not sight.rows:
        return _attend_by_rows(q, k, v, sight, group)
    length = q.shape[1]
    if sight.rows > length:
        q = pad(q, (0, 0, 0, sight.rows - length))
    if sight.bias is not None:
        out = _attend_with_bias(q, k, v, sight.mask, sight.bias, group)
    else:
        grouped = rearrange(q, "(kv g) t d -> kv g t d", g=group)
        keys, values = (x[:, None].expand(-1, group, -1, -1) for x in (k, v))
        mask = None if sight.mask is None else sight.mask.expand(1, 1, sight.rows, -1)
        out = rearrange(scaled_dot_product_attention(grouped, keys, values, attn_mask=mask), "kv g t d -> (kv g) t d")
    return rearrange(out[:, :length], "h t d -> t (h d)")


def _attend_by_rows(q: Tensor, k: Tensor, v: Tensor, sight: Sight, group: int) -> Tensor:
    """One position: the heads of a group are rows of one kv head's queries, so that K and V are read once.

    2-3.6 times as fast as enable_gqa.
    """
    # Plain views, no rearrange: of many sessions' steps each passes here in each layer.
    kv, _, d = k.shape
    rows, mask = q.reshape(1, kv, group, d), sight.mask
    if sight.bias is not None:
        bias = sight.bias.reshape(1, kv, group, -1)
        mask = bias if mask is None else bias + mask
    if group < LEAST_ROWS:
        missing = (0, 0, 0, LEAST_ROWS - group)
        rows = pad(rows, missing)
        mask = pad(mask, missing) if mask is not None and sight.bias is not None else mask
    if mask is not None and sight.bias is None:
        mask = mask.expand(1, 1, rows.shape[2], -1)
    out = scaled_dot_product_attention(rows, k[None], v[None], attn_mask=mask)
    return out[:, :, :group].reshape(1, kv * group * d)


def _attend_with_bias(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor, group: int) -> Tensor:
    """[heads, rows, d] with masks that differ from head to head: as many heads at a time as their masks may be large."""
    heads, rows, _ = q.shape
    parts = -(-heads // max(1, MOST_MASK_ROWS // rows))
    outputs: list[Tensor] = []
    for part in range(parts):
        first, last = heads * part // parts, heads * (part + 1) // parts
        of_kv: slice | Sequence[int] = (
            slice(first, last) if group == 1 else [head // group for head in range(first, last)]
        )
        added = bias[first:last, None] if mask is None else bias[first:last, None] + mask
        outputs.append(
            scaled_dot_product_attention(
                q[None, first:last], k[None, of_kv], v[None, of_kv], attn_mask=added[None].expand(-1, -1, rows, -1)
            )[0]
        )
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

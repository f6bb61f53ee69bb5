"""Attention of one session's new positions over its cache, with RoPE or ALiBi.

Knows one session at a time: batch mates never meet here, which is what makes an answer independent of them.

On a CPU a position's result has the same bits however its sequence is cut into steps. torch's kernel takes keys in blocks of
512 and queries in blocks of 32 or more, and rounds otherwise where the last block of keys ends elsewhere, where a block of
queries has too few rows (`query_rows` says how many it takes), where there is no mask, or where a single block is all there
is (then the product inside it is spread over the cores). So each position takes as many keys as its own number decides, a
multiple of 64 (of 512 cost prompts a tenth more); positions that take different numbers of keys are computed apart; queries
are padded to a multiple of what a block needs; what is padded is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from swarm.decoder.description import Decoder
from swarm.decoder.device import LEAST_ROWS, Device
from swarm.decoder.positions import PositionTables, Rotation
from swarm.decoder.processor import has_tiles

QUERY_BLOCK = 32
MOST_QUERIES = 1 << 30
# Masks are at most so many rows of keys: with ALiBi they differ from head to head, and are made for a few heads at a time.
MOST_MASK_ROWS = 512


def split_fused(decoder: Decoder, fused: Tensor) -> tuple[Tensor, Tensor]:
    """[tokens, fused width] → what may be rotated, [tokens, some, slots, d]; values, [tokens, kv heads, d].

    Rows in groups: a kv head's queries and then its key are its slots; one key for all queries is one group, and a key for
    each is groups of one. Else all queries, then all keys, each in a slot of its own.
    """
    if decoder.fused == "grouped":
        grouped = fused.view(fused.shape[0], decoder.kv_heads, -1, decoder.head_dim)
        return grouped[:, :, :-1], grouped[:, :, -1]
    rows = fused.view(fused.shape[0], -1, 1, decoder.head_dim)
    turned = decoder.heads + decoder.kv_heads
    return rows[:, :turned], rows[:, turned:, 0]


def part_queries(decoder: Decoder, turned: Tensor) -> tuple[Tensor, Tensor]:
    """What split_fused gave, rotated → queries, [tokens, kv heads, group, d]; keys, [tokens, kv heads, d]."""
    if decoder.fused == "grouped":
        return turned[:, :, :-1], turned[:, :, -1]
    queries = turned[:, : decoder.heads].view(turned.shape[0], decoder.kv_heads, -1, decoder.head_dim)
    return queries, turned[:, decoder.heads :, 0]


def rotate(x: Tensor, tables: Rotation) -> Tensor:
    """Apply RoPE (rotate-half) to [tokens, some, slots, d]: to its first dims, if the tables have fewer."""
    cos, sin = tables
    if cos.shape[-1] < x.shape[-1]:
        turning, passing = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), dim=-1)
        return torch.cat((rotate(turning, tables), passing), dim=-1)
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


@dataclass(frozen=True, slots=True)
class Sight:
    """What some neighbouring new positions may look at; made once for all layers.

    start, stop: which of a span's rows. by_group: it is one position, and the heads of a group are rows of their kv head;
    else positions are rows of a head. rows, keys: how many there are, padding included. mask: additive, [rows, keys], or
    [1, keys] where all rows see the same; None where that is all. bias: ALiBi's, [heads, keys].
    """

    start: int
    stop: int
    by_group: bool
    rows: int
    keys: int
    mask: Tensor | None
    bias: Tensor | None


def padded_keys(stop: int, device: Device) -> int:
    """How many keys the last of `stop` positions takes."""
    return -(-stop // device.key_block) * device.key_block


def look_back(
    decoder: Decoder, tables: PositionTables, start: int, stop: int, dtype: torch.dtype, window: int | None = None
) -> list[Sight]:
    """What positions start..stop see; window: of how many positions at most."""
    device = tables.device
    least, most = query_rows(decoder.head_dim, dtype, device)
    sights: list[Sight] = []
    first = start
    while first < stop:
        last = min(stop, padded_keys(first + 1, device), first + most) if device.key_block > 1 else stop
        keys = padded_keys(last, device)
        by_group, rows = _rows_of(decoder, last - first, least, most)
        mask = _mask(tables, first, last, rows, keys, dtype, window)
        sights.append(Sight(first - start, last - start, by_group, rows, keys, mask, tables.bias(keys)))
        first = last
    return sights


def query_rows(head_dim: int, dtype: torch.dtype, device: Device) -> tuple[int, int]:
    """How many of a head's queries a call takes at least and at most, for their bits to depend on no others.

    Measured, 1 to 96 rows: in float32 Intel's library needs 3, 4, 5, 6, 9, 9 for heads of 64, 80, 96, 128, 192, 256. With
    AMX tiles, 64 rows or more of 16-bit numbers are packed, which rounds otherwise where a head is no multiple of a tile.
    """
    if device.least_rows == 1:
        return 1, MOST_QUERIES
    if dtype is torch.float32:
        return (LEAST_ROWS if head_dim <= 64 else 8 if head_dim <= 128 else 16), MOST_QUERIES
    is_cut = head_dim > QUERY_BLOCK and head_dim % QUERY_BLOCK != 0
    return LEAST_ROWS, QUERY_BLOCK if is_cut and has_tiles() else MOST_QUERIES


def _rows_of(decoder: Decoder, length: int, least: int, most: int) -> tuple[bool, int]:
    """Sight.by_group and Sight.rows of so many positions."""
    rows = max(decoder.heads // decoder.kv_heads, least)
    has_blocks = decoder.kv_heads * -(-rows // QUERY_BLOCK) > 1  # of queries, more than one
    if length == 1 and rows <= most and (has_blocks or least == 1):
        return True, rows
    return False, -(-length // least) * least


def _mask(
    tables: PositionTables, first: int, last: int, rows: int, keys: int, dtype: torch.dtype, window: int | None
) -> Tensor | None:
    """Hides what comes after each position or lies too far before; rows beyond them see what the last one sees."""
    length = last - first
    if window is not None and window >= last:
        window = None
    if length == 1:
        return tables.mask(last, keys, window) if tables.device.key_block > 1 or window is not None else None
    mask = torch.full((length, keys), float("-inf"), dtype=dtype, device=tables.device.where).triu_(first + 1)
    if window is not None:
        mask += torch.full_like(mask, float("-inf")).tril_(first - window)
    return mask if rows == length else torch.cat((mask, mask[-1:].expand(rows - length, -1)))


def attend(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, sights: Sequence[Sight]) -> Tensor:
    """Causal attention of the last positions over all of k and v.

    q: [new, kv heads, group, d]; k, v: [kv heads, as many keys as the last sight has, d], finite where they are padded;
    returns [new, heads * d].
    """
    if len(sights) == 1:
        return _attend(decoder, q, k, v, sights[0])
    outputs = [
        _attend(decoder, q[sight.start : sight.stop], k[:, : sight.keys], v[:, : sight.keys], sight) for sight in sights
    ]
    return torch.cat(outputs)


def _attend(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
    if sight.by_group:
        return _attend_by_group(q, k, v, sight, decoder.attention_scale)
    length, _, group, _ = q.shape
    if sight.rows > length:
        q = pad(q, (0, 0, 0, 0, 0, 0, 0, sight.rows - length))
    if sight.bias is not None:
        heads = rearrange(q, "t kv g d -> (kv g) t d")
        out = rearrange(_attend_with_bias(heads, k, v, sight.mask, sight.bias, group), "h t d -> t (h d)")
    else:
        grouped = rearrange(q, "t kv g d -> kv g t d")
        keys, values = (x[:, None].expand(-1, group, -1, -1) for x in (k, v))
        mask = None if sight.mask is None else sight.mask.expand(1, 1, sight.rows, -1)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=decoder.attention_scale)
        out = rearrange(out, "kv g t d -> t (kv g d)")
    return out[:length]


def _attend_by_group(q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None) -> Tensor:
    """One position: the heads of a group are rows of one kv head's queries, so that K and V are read once.

    2-3.6 times as fast as enable_gqa.
    """
    # Plain views, no rearrange: of many sessions' steps each passes here in each layer.
    _, kv, group, d = q.shape
    mask = sight.mask
    if sight.bias is not None:
        bias = sight.bias.reshape(1, kv, group, -1)
        mask = bias if mask is None else bias + mask
    rows = q
    if sight.rows > group:
        missing = (0, 0, 0, sight.rows - group)
        rows = pad(rows, missing)
        mask = pad(mask, missing) if mask is not None and sight.bias is not None else mask
    if mask is not None and sight.bias is None:
        mask = mask.expand(1, 1, sight.rows, -1)
    out = scaled_dot_product_attention(rows, k[None], v[None], attn_mask=mask, scale=scale)
    return out[:, :, :group].reshape(1, kv * group * d)


def _attend_with_bias(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor, group: int) -> Tensor:
    """[heads, rows, d] with masks that differ from head to head: as many heads at a time as their masks may be large."""
    heads, rows, _ = q.shape
    outputs: list[Tensor] = []
    for first, last in _head_ranges(heads, group, max(1, MOST_MASK_ROWS // rows)):
        of_kv = slice(first // group, (last - 1) // group + 1)
        keys, values = (x[None, of_kv].expand(-1, last - first, -1, -1) for x in (k, v))
        added = bias[first:last, None] if mask is None else bias[first:last, None] + mask
        outputs.append(
            scaled_dot_product_attention(
                q[None, first:last], keys, values, attn_mask=added[None].expand(-1, -1, rows, -1)
            )[0]
        )
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _head_ranges(heads: int, group: int, most: int) -> list[tuple[int, int]]:
    """All heads in ranges of at most `most`, as even as they can be; of several kv heads only where each has its own."""
    whole = heads if group == 1 else group
    parts = -(-whole // most)
    return [
        (first + whole * part // parts, first + whole * (part + 1) // parts)
        for first in range(0, heads, whole)
        for part in range(parts)
    ]

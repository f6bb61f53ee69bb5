"""What new positions may look at, and in which company they are computed.

On a CPU a position's result has the same bits however its sequence is cut into steps. torch's kernel takes keys in blocks of
512 and queries in blocks of 32 or more, and rounds otherwise where the last block of keys ends elsewhere, where a block of
queries has too few rows (`query_rows` says how many it takes), where there is no mask, or where a single block is all there
is (then the product inside it is spread over the cores). So each position takes as many keys as its own number decides, a
multiple of 64 (of 512 cost prompts a tenth more); positions that take different numbers of keys are computed apart; queries
are padded to a multiple of what a block needs; what is padded is masked.

Scores with a cap are no such kernel's but products of matrices, which round by the shape, and some libraries by a row's
place in it: there a position's number decides both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.decoder.description import Decoder
from swarm.decoder.device import LEAST_ROWS, Device
from swarm.decoder.positions import PositionTables
from swarm.decoder.processor import has_tiles

QUERY_BLOCK = 32
MOST_QUERIES = 1 << 30
MASK_WIDTH = 8  # rows of a mask begin at multiples of so many numbers: a card's kernels copy it in each layer otherwise
CAPPED_POSITIONS = 64  # whose scores a card holds at a time where they have a cap: no kernel keeps them to itself


@dataclass(frozen=True, slots=True)
class Sight:
    """What some neighbouring new positions may look at; made once for all layers.

    start, stop: which of a span's rows. by_group: it is one position, and the heads of a group are rows of their kv head;
    else positions are rows of a head. rows, keys: how many there are, padding included. before: rows of padding before the
    first; more may follow the last. mask: additive, [rows, keys], or [1, keys] where all rows see the same; None where each
    sees all that comes before it. bias: ALiBi's, [heads, keys]. first_key: none of them sees what lies before it.
    """

    start: int
    stop: int
    by_group: bool
    rows: int
    keys: int
    mask: Tensor | None
    bias: Tensor | None = None
    before: int = 0
    first_key: int = 0


def padded_keys(stop: int, device: Device) -> int:
    """How many keys the last of `stop` positions takes."""
    return -(-stop // device.key_block) * device.key_block


def look_back(
    decoder: Decoder, tables: PositionTables, start: int, stop: int, dtype: torch.dtype, window: int | None = None
) -> list[Sight]:
    """What positions start..stop see; window: of how many positions at most."""
    if decoder.attention_cap is not None:
        return _look_back_capped(decoder, tables, start, stop, dtype, window)
    device = tables.device
    if device.key_block == 1:
        return [_look_back_at_once(decoder, tables, start, stop, dtype, window)]
    least, most = query_rows(decoder.head_dim, dtype)
    sights: list[Sight] = []
    first = start
    while first < stop:
        last = min(stop, padded_keys(first + 1, device), first + most)
        keys = padded_keys(last, device)
        by_group, rows = _rows_of(decoder, last - first, least, most)
        mask = _mask(tables, first, last, rows, keys, dtype, window)
        sights.append(Sight(first - start, last - start, by_group, rows, keys, mask, tables.bias(keys)))
        first = last
    return sights


def _look_back_at_once(
    decoder: Decoder, tables: PositionTables, start: int, stop: int, dtype: torch.dtype, window: int | None
) -> Sight:
    """On a card all positions share a call, over no more keys than one of them sees.

    A lone one needs no mask then. That is no mere matter of speed: kernels that take masks read 16 bytes at a time, whatever
    the address, and a row that is cut out of a longer one may begin anywhere.
    """
    first_key = _first_key(start, window)
    length, keys = stop - start, stop - first_key
    bias = tables.bias(stop)
    if length == 1:
        group = decoder.heads // decoder.kv_heads
        return Sight(0, 1, by_group=True, rows=group, keys=keys, mask=None, bias=bias, first_key=first_key)
    sees_all = bias is None and (window is None or window >= keys)
    mask = None if sees_all else _mask(tables, start - first_key, keys, length, keys, dtype, window)
    return Sight(0, length, False, length, keys, mask, bias, first_key=first_key)


def _first_key(position: int, window: int | None) -> int:
    return 0 if window is None else max(0, position + 1 - window)


def _look_back_capped(
    decoder: Decoder, tables: PositionTables, start: int, stop: int, dtype: torch.dtype, window: int | None
) -> list[Sight]:
    """On a CPU each position has a row in a product whose rows and keys are as many as its own number decides."""
    device = tables.device
    is_placed = device.key_block > 1
    most = _placed_positions(decoder) if is_placed else CAPPED_POSITIONS
    sights: list[Sight] = []
    first = start
    while first < stop:
        before = first % most if is_placed else 0
        last = min(stop, first - before + most)
        rows = most if is_placed else last - first
        first_key = 0 if is_placed else _first_key(first, window)
        keys = padded_keys(last, device) - first_key
        top = first - before - first_key
        mask = _mask(tables, top, top + rows, rows, keys, dtype, window)
        sights.append(Sight(first - start, last - start, False, rows, keys, mask, before=before, first_key=first_key))
        first = last
    return sights


def _placed_positions(decoder: Decoder) -> int:
    """How many positions share a product: they divide a block of keys, and have about QUERY_BLOCK heads of a group."""
    group = decoder.heads // decoder.kv_heads
    return 1 << max(0, (QUERY_BLOCK // group).bit_length() - 1)


def query_rows(head_dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """How many of a head's queries a call takes at least and at most, for their bits to depend on no others.

    Measured, 1 to 96 rows: in float32 Intel's library needs 3, 4, 5, 6, 9, 9 for heads of 64, 80, 96, 128, 192, 256. With
    AMX tiles, 64 rows or more of 16-bit numbers are packed, which rounds otherwise where a head is no multiple of a tile.
    """
    if dtype is torch.float32:
        return (LEAST_ROWS if head_dim <= 64 else 8 if head_dim <= 128 else 16), MOST_QUERIES
    is_cut = head_dim > QUERY_BLOCK and head_dim % QUERY_BLOCK != 0
    return LEAST_ROWS, QUERY_BLOCK if is_cut and has_tiles() else MOST_QUERIES


def _rows_of(decoder: Decoder, length: int, least: int, most: int) -> tuple[bool, int]:
    """Sight.by_group and Sight.rows of so many positions."""
    rows = max(decoder.heads // decoder.kv_heads, least)
    has_blocks = decoder.kv_heads * -(-rows // QUERY_BLOCK) > 1  # of queries, more than one
    if length == 1 and rows <= most and has_blocks:
        return True, rows
    return False, -(-length // least) * least


def _mask(
    tables: PositionTables, first: int, last: int, rows: int, keys: int, dtype: torch.dtype, window: int | None
) -> Tensor | None:
    """Hides what comes after each position or lies too far before; rows beyond them see what the last one sees.

    Positions are counted from the first key.
    """
    length = last - first
    if window is not None and window >= last:
        window = None
    if length == 1:
        return tables.mask(last, keys, window) if tables.device.key_block > 1 else None
    width = -(-keys // MASK_WIDTH) * MASK_WIDTH
    mask = torch.full((length, width), float("-inf"), dtype=dtype, device=tables.device.where).triu_(first + 1)
    if window is not None:
        mask += torch.full_like(mask, float("-inf")).tril_(first - window)
    mask = mask[:, :keys]
    return mask if rows == length else torch.cat((mask, mask[-1:].expand(rows - length, -1)))

"""Attention of sessions' new positions over their caches, with RoPE or ALiBi.

Sessions may share a call, but no row of a product: that makes an answer independent of what is computed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from swarm.decoder.description import Decoder
from swarm.decoder.positions import Rotation
from swarm.decoder.sights import Sight

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
    return x * cos + torch.cat((high, low), dim=-1) * sin


def attend(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, sights: Sequence[Sight]) -> Tensor:
    """Causal attention of the last positions over all of k and v.

    q: [new, kv heads, group, d]; k, v: [kv heads, as many keys as the last sight has, d], finite where they are padded;
    returns [new, heads * d].
    """
    if len(sights) == 1 and not sights[0].first_key:
        return _attend(decoder, q, k, v, sights[0])
    outputs: list[Tensor] = []
    for sight in sights:
        seen = slice(sight.first_key, sight.first_key + sight.keys)
        outputs.append(_attend(decoder, q[sight.start : sight.stop], k[:, seen], v[:, seen], sight))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def attend_together(decoder: Decoder, q: Tensor, seen: Tensor, sight: Sight) -> Tensor:
    """Attention of one new position of each of some sessions.

    q: [sessions, kv heads, group, d]; seen: their keys and values, [sessions, 2, kv heads, keys, d]; returns
    [sessions, heads * d].
    """
    return _attend_by_group(q, seen[:, 0], seen[:, 1], sight, decoder.attention_scale)


def _attend(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
    if sight.by_group:
        return _attend_by_group(q, k[None], v[None], sight, decoder.attention_scale)
    length, _, group, _ = q.shape
    if sight.rows > length:
        q = pad(q, (0, 0, 0, 0, 0, 0, sight.before, sight.rows - length - sight.before))
    if decoder.attention_cap is not None:
        out = _attend_capped(decoder, q, k, v, sight.mask, decoder.attention_cap)
    elif sight.bias is not None:
        heads = rearrange(q, "t kv g d -> (kv g) t d")
        out = rearrange(_attend_with_bias(heads, k, v, sight.mask, sight.bias, group), "h t d -> t (h d)")
    else:
        grouped = rearrange(q, "t kv g d -> kv g t d")
        keys, values = (x[:, None].expand(-1, group, -1, -1) for x in (k, v))
        mask = name_causal_mask(grouped, sight.keys) if sight.mask is None else sight.mask.expand(1, 1, sight.rows, -1)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=decoder.attention_scale)
        out = rearrange(out, "kv g t d -> t (kv g d)")
    return out[sight.before : sight.before + length]


def name_causal_mask(queries: Tensor, keys: int) -> Tensor:
    """That the last of the keys is the last query's own, [rows, keys], in a form for which a card has kernels.

    queries: [..., rows, d].
    """
    # Two thirds as long to import as torch itself, and no CPU needs it.
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(queries.shape[-2], keys)


def _attend_capped(decoder: Decoder, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cap: float) -> Tensor:
    """Scores that a tangent keeps below a cap (Gemma 2): no fused kernel has them. q: [rows, kv heads, group, d]."""
    group, scale = q.shape[2], decoder.attention_scale or decoder.head_dim**-0.5
    scores = rearrange(q, "t kv g d -> kv (t g) d") @ k.transpose(1, 2)
    scores = scores.mul_(scale).div_(cap).tanh_().mul_(cap)
    if mask is not None:
        rearrange(scores, "kv (t g) keys -> kv t g keys", g=group).add_(mask[:, None])
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
    return rearrange(shares @ v, "kv (t g) d -> t (kv g d)", g=group)


def _attend_by_group(q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float | None) -> Tensor:
    """One position a session: the heads of a group are rows of one kv head's queries, so that K and V are read once.

    2-3.6 times as fast as enable_gqa. q: [sessions, kv heads, group, d]; k, v: [sessions, kv heads, keys, d].
    """
    # Plain views, no rearrange: each step passes here in each layer.
    sessions, kv, group, d = q.shape
    mask = None if sight.mask is None else sight.mask[:, None, None]
    if sight.bias is not None:
        bias = sight.bias.reshape(1, kv, group, -1)
        mask = bias if mask is None else bias + mask
    rows = q
    if sight.rows > group:
        missing = (0, 0, 0, sight.rows - group)
        rows = pad(rows, missing)
        mask = pad(mask, missing) if mask is not None and sight.bias is not None else mask
    if mask is not None and sight.bias is None:
        mask = mask.expand(-1, 1, sight.rows, -1)
    out = scaled_dot_product_attention(rows, k, v, attn_mask=mask, scale=scale)
    return out[:, :, :group].reshape(sessions, kv * group * d)


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

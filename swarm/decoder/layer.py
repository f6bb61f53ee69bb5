"""One layer, and the head: which slots a decoder has decides what they do.

Owns the mathematics. Knows no sessions beyond the spans it is given, no files and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swarm.decoder.attention import attend, attend_together, part_queries, rotate, split_fused
from swarm.decoder.block import Block
from swarm.decoder.cache import KvCache
from swarm.decoder.calls import Call, Calls
from swarm.decoder.description import Decoder
from swarm.decoder.linear import Linear
from swarm.decoder.norms import join_head_norms
from swarm.decoder.positions import Rotation

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": nn.functional.gelu,
    "gelu_new": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
}


@dataclass(frozen=True, slots=True)
class Span:
    """`length` rows of a packed tensor that are one session's new positions, and the cache that they extend."""

    cache: KvCache
    length: int


@dataclass(frozen=True, slots=True)
class View:
    """What the positions of a packed tensor mean to the layers: rotations by rope, and by window who sees what."""

    rotations: Mapping[int, Rotation]
    calls: Mapping[int | None, Calls]


class Layer(Block):
    """One decoder layer, made of what fills its slots: in the order in which they compute, for some come piecemeal."""

    def __init__(self, decoder: Decoder, number: int, filled: Mapping[str, nn.Module]) -> None:
        """filled: by role, a norm or a Linear."""
        super().__init__()
        self.decoder = decoder
        self.renumber(number)
        self.before_attention = filled["before_attention"]
        self.query_key_value = filled["query_key_value"]
        self.head_norm = (
            join_head_norms(decoder, filled["query_norm"], filled["key_norm"]) if "key_norm" in filled else None
        )
        self.out = filled["out"]
        self.after_attention = filled.get("after_attention")
        self.before_mlp = filled.get("before_mlp")
        self.has_gate = "gate_up" in filled
        self.up = filled["gate_up" if self.has_gate else "up"]
        self.down = filled["down"]
        self.after_mlp = filled.get("after_mlp")
        self.activation = ACTIVATIONS[decoder.activation]

    def renumber(self, number: int) -> None:
        """Be another layer of the decoder, whose numbers have come in place of these."""
        self.number = number
        self.kind = self.decoder.kind(number)

    def forward(self, hidden: Tensor, spans: Sequence[Span], view: View) -> Tensor:
        """hidden: [tokens, hidden], packed by span; returns the same shape."""
        normed = self.before_attention(hidden)
        attended = self.out(self._attend(self.query_key_value(normed), spans, view))
        if self.decoder.parallel:
            if self.before_mlp is not None:
                normed = self.before_mlp(hidden)
            return hidden + (self._mlp(normed) + attended)
        hidden = self._add(hidden, attended, self.after_attention)
        computed = self._mlp(hidden if self.before_mlp is None else self.before_mlp(hidden))
        return self._add(hidden, computed, self.after_mlp)

    def _add(self, hidden: Tensor, branch: Tensor, after: nn.Module | None) -> Tensor:
        """after: a norm of what the branch adds."""
        if after is not None:
            branch = after(branch)
        scale = self.decoder.residual_scale
        return hidden + (branch if scale == 1.0 else branch * scale)

    def _mlp(self, x: Tensor) -> Tensor:
        inner = self.up(x)
        if self.has_gate:
            gate, up = inner.chunk(2, dim=-1)
            return self.down(self.activation(gate) * up)
        return self.down(self.activation(inner))

    def _attend(self, fused: Tensor, spans: Sequence[Span], view: View) -> Tensor:
        """What concerns all rows alike is done at once, attention by call, the cache by span."""
        turned, values = split_fused(self.decoder, fused)
        if self.head_norm is not None:
            turned = self.head_norm(turned)
        if self.kind.rope is not None:
            turned = rotate(turned, view.rotations[self.kind.rope])
        queries, keys = part_queries(self.decoder, turned)
        fresh = torch.stack((keys, values)).transpose(1, 2)
        calls = view.calls[self.kind.window]
        outputs = [self._call(one, queries[one.rows], fresh[:, :, one.rows], spans) for one in calls.calls]
        attended = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return attended if calls.order is None else attended[calls.order]

    def _call(self, call: Call, queries: Tensor, fresh: Tensor, spans: Sequence[Span]) -> Tensor:
        """queries: [rows, kv heads, group, d]; fresh: keys and values, [2, kv heads, rows, d]."""
        caches = [spans[number].cache for number in call.spans]
        if len(caches) == 1:
            keys, values = caches[0].write(self.number, fresh)
            return attend(self.decoder, queries, keys, values, call.sights)
        written = [cache.write(self.number, one) for cache, one in zip(caches, fresh.split(1, dim=2), strict=True)]
        return attend_together(self.decoder, queries, torch.stack(written), call.sights[0])


class Head(Block):
    """Final norm and output projection: [rows, hidden] → float32 logits [rows, vocabulary]."""

    def __init__(self, decoder: Decoder, norm: nn.Module, projection: Linear) -> None:
        super().__init__()
        self.norm = norm
        self.projection = projection
        self.scale = decoder.logit_scale
        self.cap = decoder.logit_cap

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.projection.sums(self.norm(hidden))
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits.float()

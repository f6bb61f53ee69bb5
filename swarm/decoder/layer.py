"""One layer, and the head: which slots a decoder has decides what they do.

Owns the mathematics. Knows no sessions beyond the spans it is given, no files and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swarm.decoder.attention import Sight, attend, rotate, split_fused
from swarm.decoder.cache import KvCache
from swarm.decoder.description import Decoder
from swarm.decoder.linear import Linear

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
    """What the positions of a packed tensor mean to every layer: how to rotate them, and what each span's see."""

    rope: tuple[Tensor, Tensor] | None
    sights: Sequence[Sequence[Sight]]


class Norm(nn.Module):
    """Layer norm with weight and bias, [tokens, hidden] → the same."""

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Layer(nn.Module):
    """One decoder layer, made of what fills its slots."""

    def __init__(self, decoder: Decoder, number: int, filled: Mapping[str, nn.Module]) -> None:
        """filled: by role, a Norm or a Linear."""
        super().__init__()
        self.decoder = decoder
        self.number = number
        self.before_attention = filled["before_attention"]
        self.query_key_value = filled["query_key_value"]
        self.out = filled["out"]
        self.before_mlp = filled.get("before_mlp")
        self.up = filled["up"]
        self.down = filled["down"]
        self.activation = ACTIVATIONS[decoder.activation]

    def forward(self, hidden: Tensor, spans: Sequence[Span], view: View) -> Tensor:
        """hidden: [tokens, hidden], packed by span; returns the same shape."""
        normed = self.before_attention(hidden)
        attended = self.out(self._attend(self.query_key_value(normed), spans, view))
        if self.decoder.parallel:
            if self.before_mlp is not None:
                normed = self.before_mlp(hidden)
            return hidden + (self._mlp(normed) + attended)
        hidden = hidden + attended
        return hidden + self._mlp(hidden if self.before_mlp is None else self.before_mlp(hidden))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))

    def _attend(self, fused: Tensor, spans: Sequence[Span], view: View) -> Tensor:
        """What concerns all rows alike is done at once, the cache and attention by span."""
        turned, values = split_fused(self.decoder, fused)
        if view.rope is not None:
            turned = rotate(turned, view.rope)
        queries, keys = turned[:, :, :-1], turned[:, :, -1].transpose(0, 1)
        values = values.transpose(0, 1)
        outputs: list[Tensor] = []
        row = 0
        for span, sights in zip(spans, view.sights, strict=True):
            stop = row + span.length
            k, v = span.cache.write(self.number, keys[:, row:stop], values[:, row:stop])
            outputs.append(attend(self.decoder, queries[row:stop], k, v, sights))
            row = stop
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class Head(nn.Module):
    """Final norm and output projection: [rows, hidden] → float32 logits [rows, vocabulary]."""

    def __init__(self, norm: Norm, projection: Linear) -> None:
        super().__init__()
        self.norm = norm
        self.projection = projection

    def forward(self, hidden: Tensor) -> Tensor:
        return self.projection(self.norm(hidden)).float()

"""The norms that a decoder may ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swarm.decoder.description import Decoder


class LayerNorm(nn.Module):
    """Mean and variance, with weight and bias, [tokens, hidden] → the same."""

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class RmsNorm(nn.Module):
    """Root mean square in float32 over the last dimension, then the weight, broadcast, in the dtype of x."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], None, self.epsilon) * self.weight


class RmsOneNorm(RmsNorm):
    """The same with everything in float32 until the end. weight: float32, what checkpoints have plus one."""

    def forward(self, x: Tensor) -> Tensor:
        return (nn.functional.rms_norm(x.float(), x.shape[-1:], None, self.epsilon) * self.weight).to(x.dtype)


def make_norm(decoder: Decoder, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Of what a checkpoint stores. weight, bias: [features]."""
    match decoder.norm:
        case "rms":
            return RmsNorm(weight, decoder.epsilon)
        case "rms_one":
            return RmsOneNorm(weight.float() + 1, decoder.epsilon)
        case "layer":
            pass
    assert bias is not None
    return LayerNorm(weight, bias, decoder.epsilon)


def join_head_norms(decoder: Decoder, queries: nn.Module, keys: nn.Module) -> RmsNorm:
    """One norm of all heads, [tokens, heads + kv heads, 1, d], in place of one of queries and one of keys."""
    assert isinstance(queries, RmsNorm)
    assert isinstance(keys, RmsNorm)
    weights = queries.weight.expand(decoder.heads, -1), keys.weight.expand(decoder.kv_heads, -1)
    return type(queries)(torch.cat(weights).unsqueeze(1), decoder.epsilon)

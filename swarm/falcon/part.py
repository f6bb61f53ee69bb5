"""A part of a Falcon as a plain module: any of embedding, layers, final norm and head.

Owns the mathematics. Knows no sessions beyond the spans it is given, no files and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swarm.errors import RequestError
from swarm.falcon.attention import PositionTables, Sight, attend, look_back, rotate, split_fused
from swarm.falcon.cache import Cache, Scratch
from swarm.falcon.config import FalconConfig
from swarm.falcon.linear import Linear
from swarm.parts import Part

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

    cache: Cache
    length: int


@dataclass(frozen=True, slots=True)
class View:
    """What a span's positions mean to every layer: how to rotate them, and what they see."""

    rope: tuple[Tensor, Tensor] | None
    sights: Sequence[Sight]


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
    """One decoder layer, made from its tensors by unprefixed name."""

    def __init__(self, config: FalconConfig, number: int, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        self.number = number
        self.query_key_value = _linear(tensors, "self_attention.query_key_value")
        self.dense = _linear(tensors, "self_attention.dense")
        self.up = _linear(tensors, "mlp.dense_h_to_4h")
        self.down = _linear(tensors, "mlp.dense_4h_to_h")
        self.activation = ACTIVATIONS[config.activation]
        names = ("ln_attn", "input_layernorm") if config.norms == "two_parallel" else ("input_layernorm",)
        self.attention_norm = _norm(config, tensors, names[0])
        second = {"one": None, "two_parallel": "ln_mlp", "sequential": "post_attention_layernorm"}[config.norms]
        self.mlp_norm = None if second is None else _norm(config, tensors, second)

    def forward(self, hidden: Tensor, spans: Sequence[Span], views: Sequence[View]) -> Tensor:
        """hidden: [tokens, hidden], packed by span; views: each span's; returns the same shape."""
        normed = self.attention_norm(hidden)
        attended = self.dense(self._attend(self.query_key_value(normed), spans, views))
        match self.config.norms:
            case "sequential":
                assert self.mlp_norm is not None
                hidden = hidden + attended
                return hidden + self._mlp(self.mlp_norm(hidden))
            case "two_parallel":
                assert self.mlp_norm is not None
                normed = self.mlp_norm(hidden)
            case "one":
                pass
        return hidden + (self._mlp(normed) + attended)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))

    def _attend(self, fused: Tensor, spans: Sequence[Span], views: Sequence[View]) -> Tensor:
        outputs: list[Tensor] = []
        row = 0
        for span, view in zip(spans, views, strict=True):
            q, k, v = split_fused(self.config, fused[row : row + span.length])
            if view.rope is not None:
                q, k = rotate(q, view.rope), rotate(k, view.rope)
            k, v = span.cache.write(self.number, k, v)
            outputs.append(attend(self.config, q, k, v, view.sights))
            row += span.length
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class Head(nn.Module):
    """Final norm and output projection: [rows, hidden] → float32 logits [rows, vocabulary]."""

    def __init__(self, config: FalconConfig, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.norm = _norm(config, tensors, "ln_f")
        self.projection = Linear(tensors["lm_head.weight"])

    def forward(self, hidden: Tensor) -> Tensor:
        return self.projection(self.norm(hidden)).float()


def _linear(tensors: Mapping[str, Tensor], name: str) -> Linear:
    return Linear(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def _norm(config: FalconConfig, tensors: Mapping[str, Tensor], name: str) -> Norm:
    return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"], config.epsilon)


class FalconPart(nn.Module):
    """Any part of a Falcon: token ids or hidden states in, hidden states or logits out."""

    def __init__(
        self,
        config: FalconConfig,
        part: Part,
        embed: Callable[[Tensor], Tensor] | None,
        layers: Sequence[Layer],
        head: Head | None,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """embed: ids [tokens] → [tokens, hidden]; layers: in ascending order."""
        super().__init__()
        self.config = config
        self.part = part
        self.embed = embed
        self.layers = nn.ModuleList(layers)
        self.head = head
        self.dtype = dtype
        self.device = torch.device(device)
        self._tables = PositionTables(config, dtype, self.device)
        self._scratch = Scratch(config, dtype, self.device)

    def new_cache(self, reserve: int | None = None, layers: Iterable[int] | None = None) -> Cache:
        """An empty cache for this part's layers (or some); reserve: positions, the model's context by default."""
        wanted = self.part.layers if layers is None else layers
        return Cache(self.config, wanted, reserve or self.config.context, self.dtype, self.device, self._scratch)

    @torch.inference_mode()
    def forward(self, inputs: Tensor | Sequence[int], cache: Cache | None = None) -> Tensor:
        """Run one sequence's new positions behind what `cache` holds (nothing, without one).

        inputs: ids [tokens] (a list of them does, too) where the part has begin, else hidden states [tokens, hidden]; a
        batch dimension of one before these is dropped.
        Returns hidden states [tokens, hidden], or logits [tokens, vocabulary] in float32 where the part has end.
        Raises RequestError for any other shape.
        """
        inputs = self._as_rows(inputs)
        span = Span(self.new_cache(inputs.shape[0]) if cache is None else cache, inputs.shape[0])
        hidden = self.run_layers(self.enter(inputs), [span])
        return hidden if self.head is None else self.head(hidden)

    def _as_rows(self, inputs: Tensor | Sequence[int]) -> Tensor:
        rows = torch.as_tensor(inputs, device=self.device)
        dimensions = 1 if self.part.begin else 2
        if rows.ndim == dimensions + 1 and rows.shape[0] == 1:
            rows = rows[0]
        if rows.ndim != dimensions or not rows.numel():
            wanted = "ids [tokens]" if self.part.begin else f"hidden states [tokens, {self.config.hidden}]"
            raise RequestError(f'part "{self.part}" takes {wanted}, got shape {list(rows.shape)}')
        return rows

    def enter(self, inputs: Tensor) -> Tensor:
        """Token ids → embeddings where the part has begin; hidden states as they are elsewhere."""
        return inputs if self.embed is None else self.embed(inputs)

    @torch.inference_mode()
    def run_layers(
        self,
        hidden: Tensor,
        spans: Sequence[Span],
        only: Sequence[int] | None = None,
        on_layer: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Run the layers (or those numbered `only`) on new positions of several sessions at once.

        hidden: [tokens, hidden], packed by span; returns the same shape. Every span's cache advances by its length.
        on_layer is called after each layer.
        """
        views = [self._view(span, hidden) for span in spans] if len(self.layers) else []
        for layer in self.layers:
            if only is None or layer.number in only:
                hidden = layer(hidden, spans, views)
                on_layer()
        for span in spans:
            span.cache.advance(span.length)
        return hidden

    def _view(self, span: Span, like: Tensor) -> View:
        start = span.cache.end
        stop = start + span.length
        return View(self._tables.rope(start, stop), look_back(self.config, self._tables, start, stop, like))

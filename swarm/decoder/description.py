"""A decoder as data: everything that its mathematics depends on. A family reads it out of a checkpoint's config.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from swarm.errors import WeightsError
from swarm.sepweight.family import Family

KEY_BLOCK = 64  # positions that attention on a CPU takes at a time (attention.py says why)

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


@dataclass(frozen=True, slots=True)
class Slot:
    """Which tensors play one role in a layer: `tensor.weight` of this shape, and `tensor.bias` [shape[0]] if it has one.

    A matrix is [out, in], a norm's weight [hidden]. A scheme may store a matrix otherwise (scheme.py).
    """

    tensor: str
    shape: tuple[int, ...]
    has_bias: bool

    @property
    def matrix(self) -> tuple[int, int] | None:
        """Its shape, where it is one."""
        return (self.shape[0], self.shape[1]) if len(self.shape) == 2 else None

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name → shape."""
        bias = {f"{self.tensor}.bias": self.shape[:1]} if self.has_bias else {}
        return {f"{self.tensor}.weight": self.shape, **bias}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """What a decoder computes, and with which tensors.

    slots: role → tensors, of every layer alike: before_attention, query_key_value, out, before_mlp, up, down; those that
    are there decide what a layer does. parallel: attention and MLP read the same input, and both are added to it; an MLP
    without a norm of its own then takes attention's. query_key_value's rows: for each kv head its group's queries, its key,
    its value. final_norm: the end's.
    alibi: positions are biases of the scores, and nothing is rotated.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    context: int
    slots: Mapping[str, Slot]
    final_norm: Slot
    parallel: bool
    alibi: bool
    tied: bool
    epsilon: float = 1e-5
    rope_theta: float = 10000.0
    activation: str = "gelu"
    end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocabulary", "context"):
            if not 0 < getattr(self, name) < 1 << 24:
                raise WeightsError(f"config: {name} is {getattr(self, name)}; it must be a positive number")
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise WeightsError(
                f"config: hidden {self.hidden} must divide by {self.heads} heads, and those by {self.kv_heads} kv heads"
            )
        if self.activation not in ACTIVATIONS:
            raise WeightsError(
                f'config: activation "{self.activation}" is unsupported; known: {", ".join(ACTIVATIONS)}'
            )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def fused_width(self) -> int:
        """Output features of query_key_value."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def head(self) -> Slot:
        """The output projection."""
        return Slot("lm_head", (self.vocabulary, self.hidden), has_bias=False)

    @property
    def layer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of a layer's tensors."""
        return {name: shape for slot in self.slots.values() for name, shape in slot.tensors.items()}

    def cache_bytes(self, item_bytes: int) -> int:
        """KV bytes of one position in one layer (K and V, unbroadcast)."""
        return 2 * self.kv_heads * self.head_dim * item_bytes


class DecoderFamily(Family, Protocol):
    """A family whose members are decoders."""

    model_types: tuple[str, ...]

    def read(self, raw: Mapping[str, Any]) -> Decoder:
        """The decoder that a checkpoint's config.json describes, in any spelling in use.

        Raises WeightsError naming the key that is missing, unknown or asks for mathematics that is not implemented.
        """
        ...

"""A decoder as data: everything that its mathematics depends on. A family reads it out of a checkpoint's config.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Protocol, cast

from swarm.errors import WeightsError
from swarm.sepweight.family import GgufFamily, Outline
from swarm.sepweight.manifest import layer_key

KEY_BLOCK = 64  # positions that attention on a CPU takes at a time (attention.py says why)

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")

# Matrices that multiply the same rows are joined into one as they are loaded, rows behind rows.
JOINED: Mapping[str, tuple[str, ...]] = {"query_key_value": ("query", "key", "value"), "gate_up": ("gate", "up")}


@dataclass(frozen=True, slots=True)
class Slot:
    """Which tensors play one role in a layer: `tensor.weight` of this shape, and `tensor.bias` [shape[0]] if it has one.

    A matrix is [out, in], a norm's weight [hidden]. A scheme may store a matrix otherwise (scheme.py).
    """

    tensor: str
    shape: tuple[int, ...]
    has_bias: bool = False

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
class Rope:
    """A rotation by position (Su et al. 2021, https://arxiv.org/abs/2104.09864): dims i and i + rotated / 2 of a head turn
    together, by position / theta ** (2 i / rotated).

    rotated: dims of a head that turn, the first ones. kind: how the turning is slowed for contexts longer than the original
    one: evenly (linear, factor), by wavelength (llama3: factor, low, high, original; yarn: likewise, with low and high the
    turns within the original context at which slowing begins and is complete, truncate: on whole dims), or as told for each
    pair (longrope: stretch). scale: of cosines and sines.
    """

    rotated: int
    theta: float = 10000.0
    kind: Literal["default", "linear", "llama3", "yarn", "longrope"] = "default"
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    truncate: bool = True
    stretch: tuple[float, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What may differ from layer to layer.

    rope: which of the decoder's; None: nothing is rotated. window: so many positions are seen, the own included; None: all.
    """

    rope: int | None = 0
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """What a decoder computes, and with which tensors.

    slots: role → tensors, of every layer alike: before_attention, query_key_value (or query, key, value), query_norm,
    key_norm, out, after_attention, before_mlp, gate_up (or gate, up; or up alone, without a gate), down, after_mlp; those
    that are there decide what a layer does. parallel: attention and MLP read the same input, and both are added to it; an
    MLP without a norm of its own then takes attention's. fused: the order of query_key_value's rows: "grouped" has for each
    kv head its group's queries, its key, its value; "rows" all queries, all keys, all values. final_norm: the end's.
    kinds: of the layers in turn, from the first again after the last. alibi: positions are biases of the scores.
    norm: "layer" has a mean and a bias; "rms" neither, and multiplies by the weight; "rms_one" by one more than the weight,
    in float32. attention_scale: of the scores; None: head_dim ** -0.5. rounds_embedding_scale: to the dtype that is computed
    in, before it is used. residual_scale: of what a branch adds. attention_cap, logit_cap: which a tangent keeps scores and
    logits below.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    context: int
    slots: Mapping[str, Slot]
    final_norm: Slot
    kinds: tuple[LayerKind, ...] = (LayerKind(),)
    ropes: tuple[Rope, ...] = ()
    embedding: str = "embed_tokens"
    parallel: bool = False
    fused: Literal["grouped", "rows"] = "rows"
    alibi: bool = False
    tied: bool
    norm: Literal["layer", "rms", "rms_one"] = "rms"
    epsilon: float = 1e-5
    activation: str = "silu"
    attention_scale: float | None = None
    attention_cap: float | None = None
    embedding_scale: float = 1.0
    rounds_embedding_scale: bool = False
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None
    end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocabulary", "context"):
            if not 0 < getattr(self, name) < 1 << 24:
                raise WeightsError(f"config: {name} is {getattr(self, name)}; it must be a positive number")
        if self.heads % self.kv_heads:
            raise WeightsError(f"config: {self.heads} heads must divide by {self.kv_heads} kv heads")
        if "query_norm" in self.slots and self.fused != "rows":
            raise WeightsError("config: norms of queries and keys need them in rows of their own")
        if self.alibi and self.attention_cap is not None:
            raise WeightsError("config: biases by position and a cap of the scores together are not implemented")
        if self.activation not in ACTIVATIONS:
            raise WeightsError(
                f'config: activation "{self.activation}" is unsupported; known: {", ".join(ACTIVATIONS)}'
            )

    def kind(self, layer: int) -> LayerKind:
        """What may differ of a layer."""
        return self.kinds[layer % len(self.kinds)]

    @property
    def fused_width(self) -> int:
        """Output features of query_key_value."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Output features of what enters the MLP: twice its inner ones where there is a gate."""
        return self.ffn if "gate" not in self.slots and "gate_up" not in self.slots else 2 * self.ffn

    @property
    def fillings(self) -> Mapping[str, tuple[Slot, ...]]:
        """Role → the slots that fill it: one, or several that are joined."""
        found: dict[str, tuple[Slot, ...]] = {role: (slot,) for role, slot in self.slots.items()}
        for whole, parts in JOINED.items():
            if all(part in found for part in parts):
                found[whole] = tuple(self.slots[part] for part in parts)
                found = {role: slots for role, slots in found.items() if role not in parts}
        return found

    @property
    def head(self) -> Slot:
        """The output projection."""
        return Slot("lm_head", (self.vocabulary, self.hidden))

    @property
    def layer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of a layer's tensors."""
        return {name: shape for slot in self.slots.values() for name, shape in slot.tensors.items()}

    @property
    def outline(self) -> Outline:
        """The files of a sepweight directory."""
        embedding = Slot(self.embedding, (self.vocabulary, self.hidden)).tensors
        head = {} if self.tied else self.head.tensors
        return Outline(
            layers=self.layers,
            files={
                "begin": embedding,
                **{layer_key(layer): self.layer_tensors for layer in range(self.layers)},
                "end": {**self.final_norm.tensors, **head},
            },
            aliases={"end": {name: f"begin/{next(iter(embedding))}" for name in self.head.tensors}}
            if self.tied
            else {},
            mathematics=self.mathematics,
        )

    @property
    def mathematics(self) -> str:
        """What is computed, beside the weights: with the same ones, two decoders of one text give the same answers.

        Fields that are as by default are left out, so that one more of them changes no text.
        """
        return _tell(self, leaving=("slots", "final_norm", "context", "end_ids"))

    def cache_bytes(self, item_bytes: int) -> int:
        """KV bytes of one position in one layer (K and V, unbroadcast)."""
        return 2 * self.kv_heads * self.head_dim * item_bytes


def _tell(value: object, leaving: Collection[str] = ()) -> str:
    if isinstance(value, tuple):
        return f"({' '.join(map(_tell, cast('tuple[object, ...]', value)))})"
    if not is_dataclass(value):
        return repr(value)
    told = {field.name: getattr(value, field.name) for field in fields(value) if field.name not in leaving}
    defaults = {field.name: field.default for field in fields(value)}
    return f"({' '.join(f'{name}={_tell(one)}' for name, one in told.items() if one != defaults[name])})"


class DecoderFamily(GgufFamily, Protocol):
    """A family whose members are decoders; a new one inherits from it."""

    model_types: tuple[str, ...]

    def read(self, raw: Mapping[str, Any]) -> Decoder:
        """The decoder that a checkpoint's config.json describes, in any spelling in use.

        Raises WeightsError naming the key that is missing, unknown or asks for mathematics that is not implemented.
        """
        ...

    def outline(self, config: Mapping[str, Any]) -> Outline:
        """See Family: it follows from what is read."""
        return self.read(config).outline

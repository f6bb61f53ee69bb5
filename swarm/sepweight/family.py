"""What a model family tells sepweight about its weights, so that sepweight knows no architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

FileTensors = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Outline:
    """A checkpoint's tensors as a sepweight directory arranges them.

    files: key → unprefixed tensor name → shape, with aliased tensors left out.
    aliases: key → tensor → `key/tensor` that holds the same values.
    mathematics: what is computed with them, so far as the config decides it; a part of what a model is known by.
    """

    layers: int
    files: Mapping[str, FileTensors]
    aliases: Mapping[str, Mapping[str, str]]
    mathematics: str


class Family(Protocol):
    """A model family's knowledge of its own checkpoints."""

    name: str

    def outline(self, config: Mapping[str, Any]) -> Outline:
        """Files, shapes and aliases for a checkpoint's config.json.

        Raises WeightsError naming the key if the config asks for mathematics that the family does not implement.
        """
        ...

    def checkpoint_names(self, key: str, tensor: str) -> tuple[str, ...]:
        """The names under which a Hugging Face checkpoint may store a tensor; the first one present counts."""
        ...


class GgufFacts(Protocol):
    """What a GGUF model says of itself. metadata: by the format's names. tensors: by the format's names."""

    @property
    def architecture(self) -> str: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> Mapping[str, SizedTensor]: ...

    def vector(self, name: str) -> Sequence[float] | None:
        """The numbers of a small tensor; None without it."""
        ...


class SizedTensor(Protocol):
    """A tensor whose shape is known, [out, in]."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class GgufPlace:
    """Where a GGUF file keeps a tensor. rows: which of its rows are the tensor's, in order; None: all, as they are."""

    name: str
    rows: Sequence[int] | None = None
    add: float = 0.0  # to each number


class GgufFamily(Family, Protocol):
    """A family whose models may come as GGUF files."""

    gguf_architectures: tuple[str, ...]

    def read_gguf(self, file: GgufFacts) -> dict[str, Any]:
        """The config.json that the file's model would have. Raises WeightsError naming what is not implemented."""
        ...

    def place_gguf(self, config: Mapping[str, Any], key: str, tensor: str) -> GgufPlace:
        """Where a tensor lies."""
        ...


@dataclass(frozen=True, slots=True)
class ShardedPlace:
    """Where a checkpoint of shards keeps a tensor. dimension: along which they hold it; None: each has it whole.

    rows: as in GgufPlace.
    """

    name: str
    dimension: int | None
    rows: Sequence[int] | None = None


class ShardedFamily(Family, Protocol):
    """A family whose models may come in shards that each hold a piece of every tensor."""

    def read_params(self, raw: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], shards: int) -> dict[str, Any]:
        """The config.json that the model would have. shapes: of one shard's tensors. Raises WeightsError."""
        ...

    def place_sharded(
        self, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], key: str, tensor: str
    ) -> ShardedPlace:
        """Where a tensor lies."""
        ...

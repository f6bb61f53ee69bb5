"""What a model family tells sepweight about its weights, so that sepweight knows no architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

FileTensors = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Outline:
    """A checkpoint's tensors as a sepweight directory arranges them.

    files: key → unprefixed tensor name → shape, with aliased tensors left out.
    aliases: key → tensor → `key/tensor` that holds the same values.
    """

    layers: int
    files: Mapping[str, FileTensors]
    aliases: Mapping[str, Mapping[str, str]]


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

"""The families that this version runs: the only module that imports them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swarm.decoder.description import DecoderFamily
from swarm.errors import WeightsError
from swarm.falcon.family import FALCON
from swarm.llama.family import LLAMA

FAMILIES: Sequence[DecoderFamily] = (FALCON, LLAMA)
SHARDED = LLAMA  # whose models come in shards that hold a piece of every tensor


def family_named(name: str, where: object) -> DecoderFamily:
    """The family that a manifest names. where: what holds the weights, for the message. Raises WeightsError."""
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise WeightsError(f'{where} holds a model of family "{name}"; this version runs {known}')


def family_of(config: Mapping[str, Any]) -> DecoderFamily:
    """The family that reads a checkpoint's config.json. Raises WeightsError."""
    for family in FAMILIES:
        if config.get("model_type") in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise WeightsError(f'config: model_type "{config.get("model_type")}" is unsupported; known: {known}')


def family_of_gguf(architecture: str) -> DecoderFamily:
    """The family that reads a GGUF file's architecture. Raises WeightsError."""
    for family in FAMILIES:
        if architecture in family.gguf_architectures:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.gguf_architectures)
    raise WeightsError(f'GGUF files of the architecture "{architecture}" are not implemented; known: {known}')

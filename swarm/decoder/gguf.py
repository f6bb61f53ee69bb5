"""Reads what a GGUF file says of its architecture key by key, with the checks that a config.json gets. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection

from swarm.decoder.config import Config
from swarm.errors import WeightsError
from swarm.sepweight.family import GgufFacts

# Keys that say nothing that is not known already, or that no computation reads.
_HARMLESS = frozenset({"vocab_size", "rope.dimension_count", "rope.scaling.finetuned"})


def open_metadata(file: GgufFacts) -> Config:
    """The keys of the file's own architecture, without its prefix."""
    prefix = f"{file.architecture}."
    own = {name.removeprefix(prefix): value for name, value in file.metadata.items() if name.startswith(prefix)}
    return Config(own, file.architecture)


def count_tokens(file: GgufFacts) -> int:
    """Rows of the embedding: as many as the vocabulary has, padding included."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise WeightsError(f"{file.architecture}: there is no token_embd.weight")
    return embedding.shape[0]


def refuse_unread(told: Config, file: GgufFacts, harmless: Collection[str] = ()) -> None:
    """Raise WeightsError if a key is set that nobody has read."""
    unknown = [name for name in told.unread if name not in _HARMLESS and name not in harmless]
    if unknown:
        raise WeightsError(f"{file.architecture}: unknown key {', '.join(unknown)}: it may change the mathematics")

"""What clients must know of a model, and the files that they fetch by digest."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from swarm.messages.base import Count, Digest, Message, ModelId, Name, Small, TokenId


class DocumentCard(Struct, frozen=True):
    """A file that clients fetch by digest."""

    digest: Digest
    bytes: Count


class ModelCard(Message, frozen=True, tag="model-card"):
    """What a client must know of a model before it opens a session."""

    model: ModelId
    name: Name
    layers: Small
    context: Small
    vocabulary: Small
    end_ids: Annotated[list[TokenId], Meta(max_length=16)]
    documents: Annotated[dict[Name, DocumentCard], Meta(max_length=16)]


class AskModel(Message, frozen=True, tag="ask-model"):
    model: ModelId


class AskFile(Message, frozen=True, tag="ask-file"):
    """A piece of a document, from `offset` on."""

    digest: Digest
    offset: Count


class FileChunk(Message, frozen=True, tag="file-chunk"):
    """Carries a uint8 tensor; the file has `total` bytes."""

    digest: Digest
    offset: Count
    total: Count

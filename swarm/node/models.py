"""The models whose weights lie on this machine: what they are, what they cost in memory, what clients may know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import WeightsError
from swarm.falcon.config import FALCON, FalconConfig, read_falcon_config
from swarm.messages import DocumentCard, ModelCard
from swarm.node.memory import ModelMemory, model_memory
from swarm.sepweight.manifest import Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class LocalWeights:
    """A sepweight directory on this machine. memory: on the node's device, in the dtype that it computes in."""

    directory: Path
    manifest: Manifest
    config: FalconConfig
    memory: ModelMemory

    @property
    def model(self) -> str:
        return self.manifest.model_id

    @property
    def name(self) -> str:
        return self.manifest.name[:64]

    @property
    def card(self) -> ModelCard:
        """What a client must know before it opens a session."""
        return ModelCard(
            model=self.model,
            name=self.name,
            layers=self.config.layers,
            context=self.config.context,
            vocabulary=self.config.vocabulary,
            end_ids=list(self.config.end_ids),
            documents={name: DocumentCard(one.sha256, one.bytes) for name, one in self.manifest.documents.items()},
        )

    @property
    def documents(self) -> dict[str, Path]:
        """Files that clients may fetch, by sha256."""
        return {one.sha256: self.directory / name for name, one in self.manifest.documents.items()}


def read_weights(directories: Sequence[Path], dtype: str | None, device: str) -> dict[str, LocalWeights]:
    """The models in the directories, by model id. dtype: what weights are converted to, None as stored.

    Raises WeightsError for a directory that holds no model that this version runs.
    """
    found: dict[str, LocalWeights] = {}
    for directory in directories:
        manifest = read_manifest(directory)
        if manifest.family != FALCON.name:
            raise WeightsError(f'{directory} holds a model of family "{manifest.family}"; this version runs falcon')
        config = read_falcon_config(manifest.config)
        memory = model_memory(manifest, config, dtype, device)
        found[manifest.model_id] = LocalWeights(directory, manifest, config, memory)
    return found

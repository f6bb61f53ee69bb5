"""The models whose weights lie on this machine: what they are, what they cost in memory, what clients may know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from swarm.decoder.config import Config
from swarm.decoder.description import Decoder, DecoderFamily
from swarm.decoder.device import Device
from swarm.decoder.direct import measure_rate
from swarm.decoder.forms import Forms
from swarm.decoder.packed_folder import why_unpackable
from swarm.decoder.scheme import Scheme
from swarm.errors import RequestError, WeightsError
from swarm.families import family_named
from swarm.messages.files import DocumentCard, ModelCard
from swarm.models import ModelKey
from swarm.node.compute.memory import ModelMemory, model_memory
from swarm.node.compute.verifier import FileToVerify
from swarm.parts import Part, part_of, part_of_cells, whole
from swarm.plan.costs import CellCosts
from swarm.sepweight.manifest import MANIFEST_NAME, Manifest, file_name, layer_key, present_part, read_manifest
from swarm.sepweight.scheme import Quantisation

MOST_END_IDS = 16  # of a card


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Where a loader finds a model, who knows its mathematics, how much KV is of use, what it becomes on the way."""

    family: DecoderFamily
    directory: Path
    most_kv_layer_bytes: int
    quantisation: Quantisation[Scheme] | None = None


@dataclass(frozen=True, slots=True)
class LocalWeights:
    """A sepweight directory on this machine.

    memory: on the node's device, in this variant. present: what the directory holds. end_ids: that end an answer. doubts:
    what the user should know of these weights.
    """

    model: ModelKey
    directory: Path
    manifest: Manifest
    quantisation: Quantisation[Scheme] | None
    family: DecoderFamily
    decoder: Decoder
    memory: ModelMemory
    present: Part
    end_ids: Sequence[int]
    doubts: Sequence[str]

    @property
    def name(self) -> str:
        return self.manifest.name[:64]

    @property
    def source(self) -> WeightsSource:
        """What a loader reads."""
        return WeightsSource(self.family, self.directory, self.memory.most_kv_layer_bytes, self.quantisation)

    def costs(self, *, may_stream: bool) -> CellCosts:
        """Of each cell; those that are not here cannot be had. may_stream: layers from disk, if that can be."""
        absent = frozenset((whole(self.decoder.layers) - self.present).cells)
        streams = may_stream and self.why_kept() is None
        return replace(self.memory.costs, absent=absent, weight=self.memory.weight_costs.layer if streams else 0)

    def why_kept(self) -> str | None:
        """Why no layers can be read from disk each time they are needed, whichever they are; None if they can."""
        return why_unpackable(self.directory, self.present.layer_count * self.memory.weight_costs.layer)

    def measure_source(self) -> float:
        """Bytes a second that layers' files are read with; 0 if they are too small to tell, or cannot be read."""
        return measure_rate(self.directory / file_name(layer_key(number)) for number in self.present.layers)

    def check(self, part: Part) -> None:
        """Raise WeightsError naming the files that a part lacks."""
        lacking = part - self.present
        if not lacking.is_empty():
            files = " ".join(file_name(key) for key in self.manifest.needed_files(lacking))
            raise WeightsError(
                f'{self.directory} holds "{self.present}" of {self.name}, not all of "{part}"; copy from a complete '
                f"directory what is missing of: {files}"
            )

    def files_of(self, part: Part) -> list[FileToVerify]:
        """The files that a part is made of, and which cells need each."""
        layers = self.decoder.layers
        needed_by: dict[str, list[int]] = {}
        for cell in range(layers + 2):
            for key in self.manifest.needed_files(part_of_cells(cell, cell + 1, layers)):
                needed_by.setdefault(key, []).append(cell)
        return [
            FileToVerify(
                self.directory / file_name(key), self.manifest.files[key].sha256, part_of(needed_by[key], layers)
            )
            for key in self.manifest.needed_files(part)
        ]

    @property
    def card(self) -> ModelCard:
        """What a client must know before it opens a session."""
        return ModelCard(
            model=self.model.id,
            name=self.name,
            layers=self.decoder.layers,
            context=self.decoder.context,
            vocabulary=self.decoder.vocabulary,
            end_ids=list(self.end_ids),
            documents={name: DocumentCard(one.sha256, one.bytes) for name, one in self.manifest.documents.items()},
        )

    @property
    def documents(self) -> dict[str, Path]:
        """Files that clients may fetch, by sha256."""
        return {one.sha256: self.directory / name for name, one in self.manifest.documents.items()}


def read_weights(
    directories: Sequence[Path],
    dtype: str | None,
    device: Device,
    quantisation: Quantisation[Scheme] | None = None,
) -> dict[ModelKey, LocalWeights]:
    """The models in the directories. dtype, quantisation: what weights become as they are loaded, None as stored.

    Raises WeightsError for a directory that holds no model that this version runs, RequestError for one that is given twice.
    """
    found: dict[ModelKey, LocalWeights] = {}
    for directory in directories:
        manifest = read_manifest(directory)
        family = family_named(manifest.family, directory)
        decoder = family.read(manifest.config)
        forms = Forms(manifest, directory, quantisation)
        forms.check(decoder)
        model = ModelKey(manifest.model_id, forms.variant(dtype or manifest.dtype))
        if model in found:
            raise RequestError(
                f"{found[model].directory} and {directory} hold the same model ({model}); give one of them"
            )
        memory = model_memory(manifest, decoder, forms, dtype, device)
        present = present_part(directory, manifest)
        if present.is_empty():
            raise WeightsError(
                f"{directory} holds {MANIFEST_NAME} and no file of weights; copy those of some layers, too"
            )
        end_ids = read_end_ids(directory, decoder)
        doubts = forms.doubts(decoder, dtype or manifest.dtype)
        found[model] = LocalWeights(
            model,
            directory,
            manifest,
            quantisation,
            family,
            decoder,
            memory,
            present,
            end_ids,
            doubts,
        )
    return found


def read_end_ids(directory: Path, decoder: Decoder) -> tuple[int, ...]:
    """Ids that end an answer: those of generation_config.json, those of config.json where that file is missing.

    Raises WeightsError if they are no token ids.
    """
    path = directory / "generation_config.json"
    try:
        told: object = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return decoder.end_ids[:MOST_END_IDS]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if not isinstance(told, dict) or "eos_token_id" not in told:
        return decoder.end_ids[:MOST_END_IDS]
    ids = Config(cast("dict[str, Any]", told), str(path)).ids("eos_token_id")
    odd = [one for one in ids if not 0 <= one < decoder.vocabulary]
    if odd:
        raise WeightsError(f"{path}: eos_token_id {odd[0]} is no id of {decoder.vocabulary} tokens")
    return ids[:MOST_END_IDS]

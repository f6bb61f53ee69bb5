"""A random Falcon of any shape as a sepweight directory, for measuring speed."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from swarm.bench.shapes import Shape
from swarm.decoder.description import Decoder
from swarm.families import family_named, family_of
from swarm.parts import Part, part_of_cells
from swarm.sepweight.dump import DTYPES, dump
from swarm.sepweight.manifest import Manifest, read_manifest


def make_checkpoint(shape: Shape, directory: Path, seed: int = 0) -> Manifest:
    """Write random weights of a shape."""
    return make_weights(shape.config, shape.dtype, directory, seed)


def make_weights(config: Mapping[str, Any], dtype: str, directory: Path, seed: int = 0) -> Manifest:
    """Write random weights of the spread that a fresh model has, drawn on a card where there is one."""
    generator = torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(seed)
    family = family_of(config)
    shapes = family.outline(config).files

    def read(key: str, tensor: str) -> torch.Tensor:
        size = shapes[key][tensor]
        if len(size) == 1:
            return torch.ones(size) if tensor.endswith("weight") else torch.zeros(size)
        drawn = torch.randn(size, generator=generator, dtype=torch.float32, device=generator.device)
        return drawn.mul_(0.02).to(DTYPES[dtype]).cpu()

    return dump(directory, family, config, read, name="bench", model_id="b" * 32, dtype=dtype)


def read_decoder(weights: Path) -> Decoder:
    """What a sepweight directory's model computes. Raises WeightsError."""
    manifest = read_manifest(weights)
    return family_named(manifest.family, weights).read(manifest.config)


def split_evenly(decoder: Decoder, nodes: int) -> list[Part]:
    """Parts of about equal weight, the head counted as what it reads."""
    layer = sum(prod(size) for size in decoder.layer_tensors.values())
    costs = [0, *([layer] * decoder.layers), decoder.vocabulary * decoder.hidden]
    parts: list[Part] = []
    start, spent = 0, 0
    for cell, cost in enumerate(costs):
        spent += cost
        is_last = cell == len(costs) - 1
        wanted = sum(costs) * (len(parts) + 1) / nodes
        if is_last or (len(parts) < nodes - 1 and spent + costs[cell + 1] / 2 > wanted):
            parts.append(part_of_cells(start, cell + 1, decoder.layers))
            start = cell + 1
    return parts

"""Falcon as a library: parts of it as plain modules."""

from __future__ import annotations

from pathlib import Path

import torch

from swarm.decoder import loading
from swarm.decoder.device import Device
from swarm.decoder.loading import Progress, load_tokenizer
from swarm.decoder.part import DecoderPart
from swarm.falcon.family import FALCON
from swarm.parts import Part

__all__ = ["init_part", "load_tokenizer"]


def init_part(
    weights_dir: str | Path,
    spec: str | Part,
    device: str | torch.device | Device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> DecoderPart:
    """Load any part of a Falcon as a module ready to run.

    dtype: None keeps the stored one. On a CPU linears are reordered as they are loaded.
    Raises WeightsError naming the file, RequestError for a bad spec.
    """
    return loading.init_part(FALCON, weights_dir, spec, device, dtype, progress=progress)

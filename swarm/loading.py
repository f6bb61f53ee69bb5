"""Parts of any model as plain modules, whatever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from swarm.decoder import loading
from swarm.decoder.builder import Streaming
from swarm.decoder.device import Device
from swarm.decoder.loading import Progress
from swarm.decoder.part import DecoderPart
from swarm.decoder.scheme import Scheme
from swarm.families import family_named
from swarm.parts import Part
from swarm.sepweight.manifest import read_manifest
from swarm.sepweight.scheme import Quantisation


def init_part(
    weights_dir: str | Path,
    spec: str | Part,
    device: str | torch.device | Device = "cpu",
    dtype: torch.dtype | None = None,
    quantisation: Quantisation[Scheme] | None = None,
    streaming: Streaming | None = None,
) -> DecoderPart:
    """Load any part of a model as a module ready to run.

    dtype: None keeps the stored one. On a CPU linears are reordered as they are loaded. quantisation: what plain matrices
    become on the way. streaming: layers that come from disk each time they are needed.
    Raises WeightsError naming the file, RequestError for a bad spec.
    """
    family = family_named(read_manifest(Path(weights_dir)).family, weights_dir)
    return loading.init_part(family, weights_dir, spec, device, dtype, quantisation=quantisation, streaming=streaming)


def pack_layers(
    weights_dir: str | Path,
    numbers: Sequence[int],
    dtype: str | None = None,
    quantisation: Quantisation[Scheme] | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Lay layers out for this machine's processor, for nodes that stream them; what is there stays.

    dtype: its name; None keeps the stored one. Raises WeightsError, RequestError.
    """
    family = family_named(read_manifest(Path(weights_dir)).family, weights_dir)
    wanted = None if dtype is None else getattr(torch, dtype)
    for done, total in loading.iterate_packing(family, weights_dir, numbers, wanted, quantisation):
        progress(done, total)

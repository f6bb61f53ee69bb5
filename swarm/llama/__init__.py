"""The LLaMA family, any part of any member: how configs and tensors are spelt. The mathematics is the decoder's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swarm.llama.family import LLAMA

if TYPE_CHECKING:
    import torch

    from swarm.decoder.device import Device
    from swarm.decoder.part import DecoderPart
    from swarm.parts import Part

__all__ = ["LLAMA", "init_part"]


def init_part(
    weights_dir: str | Path,
    spec: str | Part,
    device: str | torch.device | Device = "cpu",
    dtype: torch.dtype | None = None,
) -> DecoderPart:
    """Load any part of a model as a module ready to run.

    dtype: None keeps the stored one. On a CPU linears are reordered as they are loaded.
    Raises WeightsError naming the file, RequestError for a bad spec.
    """
    from swarm.decoder import loading  # torch takes seconds, and configs are read without it

    return loading.init_part(LLAMA, weights_dir, spec, device, dtype)

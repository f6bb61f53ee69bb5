"""What is asked of a batch. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swarm.decoder.scheme import Scheme
from swarm.messages.sampling import Sampling
from swarm.sepweight.scheme import Quantisation


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """What is asked of every line that says nothing else.

    memory: --memory; None: what is free. part: the layers that this machine runs. spill: the directory of hidden states that
    memory has no room for; None: beside the output.
    """

    weights: Path
    memory: str | None = None
    dtype: str | None = None
    quantisation: Quantisation[Scheme] | None = None
    part: str = "f"
    spill: Path | None = None
    max_tokens: int = 256
    scores: bool = False
    sampling: Sampling = field(default_factory=Sampling)


def settings_of(sampling: Sampling) -> Mapping[str, object]:
    """Its settings by name."""
    return {name: getattr(sampling, name) for name in sampling.__struct_fields__}

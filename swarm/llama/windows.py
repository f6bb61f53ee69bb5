"""How configs of the LLaMA family name the layers that have a window. Pure; imports no torch."""

from __future__ import annotations

from swarm.decoder.config import Config
from swarm.errors import WeightsError

SLIDING = "sliding_attention"


def read_sliding(config: Config, layers: int) -> list[bool]:
    """Of each layer whether it has a window; empty where layer_types does not say. Raises WeightsError."""
    named = config.texts("layer_types")
    if named and len(named) != layers:
        raise WeightsError(f"config: layer_types names {len(named)} layers of {layers}")
    return [one == SLIDING for one in named]

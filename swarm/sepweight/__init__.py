"""Weights on disk, one file a part: reading, writing, converting and checking sepweight directories.

Knows tensors and files; knows no architecture (a Family tells it shapes and names) and no network.
`load` and `dump` are imported on first use, so that reading a manifest costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.sepweight.dump import dump
    from swarm.sepweight.store import load

__all__ = ["dump", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from swarm.sepweight.store import load

        return load
    if name == "dump":
        from swarm.sepweight.dump import dump

        return dump
    raise AttributeError(name)

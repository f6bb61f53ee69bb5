"""Falcon, any variant, any part of it. Knows the mathematics and the weights; knows no node and no network.

Torch is imported on first use: a command's --help and the torch-free planner read configs from here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.falcon.loading import init_part, load_tokenizer

__all__ = ["init_part", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from swarm.falcon import loading

        return getattr(loading, name)
    raise AttributeError(name)

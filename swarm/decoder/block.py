"""What a decoder is made of."""

from __future__ import annotations

from typing import Any

from torch import nn


class Block(nn.Module):
    """A module whose call is its forward: looking for hooks, of which there are none, takes 3% of a token of SmolLM2."""

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

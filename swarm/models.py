"""Which weights are meant: a model's, in one of the forms in which they are stored and computed."""

from __future__ import annotations

from typing import NamedTuple


class ModelKey(NamedTuple):
    """What a node keeps apart: every claim, engine and session is of one model in one variant.

    id: names the source weights, so all variants share it, and a chain may mix them. variant: how they are stored and
    computed: two of a variant give the same answers.
    """

    id: str
    variant: str

    def __str__(self) -> str:
        return f"{self.id[:8]} {self.variant}".rstrip()

"""Every layout of checkpoints that the tests make, of whichever family."""

from __future__ import annotations

from types import ModuleType

from tests import checkpoints
from tests.llama import members


def maker_of(layout: str) -> ModuleType:
    """The module whose make_model, save_checkpoint and save_sepweight know it."""
    return members if layout in members.MEMBERS else checkpoints

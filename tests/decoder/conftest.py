"""Weights of every layout, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import checkpoints
from tests.decoder.layouts import LAYOUTS, MEMBERS
from tests.llama import members


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Layout → sepweight directory."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUTS:
        made = members if layout in MEMBERS else checkpoints
        made.save_sepweight(layout, root / layout)
    return {layout: root / layout for layout in LAYOUTS}

"""Weights of every layout, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.decoder.layouts import LAYOUTS
from tests.layouts import maker_of


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Layout → sepweight directory."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUTS:
        maker_of(layout).save_sepweight(layout, root / layout)
    return {layout: root / layout for layout in LAYOUTS}

"""Weights of every variant, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import VARIANTS, save_sepweight


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Variant → sepweight directory."""
    root = tmp_path_factory.mktemp("variants")
    for variant in VARIANTS:
        save_sepweight(variant, root / variant)
    return {variant: root / variant for variant in VARIANTS}

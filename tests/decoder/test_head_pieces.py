"""Heads made a few rows at a time: the same logits, and less memory while they are made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm.bench.checkpoint import make_checkpoint, read_decoder
from swarm.bench.shapes import Shape
from swarm.decoder import forms
from swarm.decoder.linear import BesideLinear, has_kernels
from swarm.decoder.processor import has_half_kernels
from swarm.decoder.schemes import quantisation_named
from swarm.families import family_named
from swarm.loading import init_part
from swarm.sepweight.manifest import read_manifest
from swarm.sepweight.requantise import quantise
from tests.layouts import maker_of
from tests.processes import peak_memory

LAYOUTS = ["7b", "11b", "llama, biases"]  # the first one's head is its embedding
LOAD = """
from swarm.cli.tuning import prepare_to_compute
prepare_to_compute()
from swarm.decoder import forms, half
from swarm.decoder.schemes import quantisation_named
from swarm.loading import init_part
forms.HEAD_NUMBERS = half.HEAD_NUMBERS = {numbers}
kept = init_part({directory!r}, "e", quantisation=quantisation_named({form!r}))
"""


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven pieces of 16 rows for a vocabulary of 97."""
    monkeypatch.setattr(forms, "HEAD_ROWS", 16)
    monkeypatch.setattr(forms, "HEAD_NUMBERS", 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["plain/plain", "int8/int8", "int4:32/int4:32"])
@pytest.mark.parametrize("is_stored", [False, True], ids=["made so", "stored so"])
def test_a_head_in_pieces_gives_the_same_logits(
    layout: str, form: str, dtype: torch.dtype, is_stored: bool, tmp_path: Path, in_pieces: None
) -> None:
    directory, wanted = tmp_path / "plain", quantisation_named(form)
    maker_of(layout).save_sepweight(layout, directory)
    if is_stored and not wanted.is_plain:
        quantise(directory, tmp_path / "smaller", family_named(read_manifest(directory).family, directory), wanted)
        directory, wanted = tmp_path / "smaller", quantisation_named("plain")
    cut = init_part(directory, "e", dtype=dtype, quantisation=wanted).head
    forms.HEAD_NUMBERS = 1 << 20
    whole = init_part(directory, "e", dtype=dtype, quantisation=wanted).head
    assert cut is not None
    assert whole is not None
    assert isinstance(cut.projection, BesideLinear)
    assert len(cut.projection.linears) == 7
    assert not isinstance(whole.projection, BesideLinear)
    width = read_decoder(directory).hidden
    hidden = torch.randn((9, width), generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.testing.assert_close(cut(hidden), whole(hidden), rtol=0.02 if dtype is torch.bfloat16 else 1e-4, atol=1e-3)
    for row in range(9):
        assert torch.equal(cut(hidden[row : row + 1]), cut(hidden)[row : row + 1])


@pytest.mark.parametrize("form", ["plain", "int8/int8"])
def test_a_head_is_made_beside_little_else(form: str, tmp_path: Path) -> None:
    """In a dtype for which this processor has kernels: plain matrices of another are used as they are stored."""
    dtype = "bfloat16" if has_kernels(torch.bfloat16) or has_half_kernels() else "float32"
    shape = Shape(layers=4, hidden=512, heads=8, vocabulary=100_000, dtype=dtype)
    make_checkpoint(shape, tmp_path)
    whole, cut = (
        peak_memory(LOAD.format(directory=str(tmp_path), form=form, numbers=numbers)) for numbers in (1 << 30, 4 << 20)
    )
    assert cut < whole - 0.5 * shape.vocabulary * shape.hidden * 2

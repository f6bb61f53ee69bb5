"""Stored forms: found by name, and a new one is a file and a line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from swarm.decoder import schemes
from swarm.decoder.device import Cpu
from swarm.errors import WeightsError
from swarm.falcon import init_part
from swarm.falcon.family import FALCON
from swarm.node.compute.models import read_weights
from swarm.sepweight.dump import dump
from swarm.sepweight.export import export_legacy
from swarm.sepweight.manifest import PLAIN_NAME, read_manifest, write_manifest
from swarm.sepweight.scheme import Quantisation
from swarm.sepweight.store import Store
from tests.checkpoints import save_sepweight
from tests.toy_scheme import ROWS, RowsLinear

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.fixture(params=["40b", "11b", "rw"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_sepweight(request.param, tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def rows(plain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same weights in the toy's form."""
    monkeypatch.setattr(schemes, "SCHEMES", (*schemes.SCHEMES, ROWS))
    store = Store(plain)
    config, model = store.manifest.config, store.manifest.model_id
    directory = plain.parent / "rows"

    def read(key: str, name: str) -> Tensor:
        return store.read(key, name)

    dump(
        directory,
        FALCON,
        config,
        read,
        name="rows",
        model_id=model,
        dtype="float32",
        quantisation=Quantisation(ROWS, ROWS),
    )
    return directory


def test_a_new_form_gives_the_same_answers_from_its_own_tensors(plain: Path, rows: Path) -> None:
    whole = init_part(rows, "f")
    assert torch.allclose(whole(IDS), init_part(plain, "f")(IDS), atol=1e-4)
    first, second = init_part(rows, "b 0-3"), init_part(rows, "3-4 e")
    assert torch.equal(second(first(IDS)), whole(IDS))
    layer = whole.shelf.resident[0]
    assert all(isinstance(one, RowsLinear) for one in (layer.query_key_value, layer.out, layer.up, layer.down))
    stored = load_file(rows / "mid.00000.safetensors")
    assert {"mlp.dense_h_to_4h.rows", "mlp.dense_h_to_4h.scales"} <= set(stored)
    assert "mlp.dense_h_to_4h.weight" not in stored


def test_a_node_reckons_with_what_a_form_costs_and_tells_its_variant(plain: Path, rows: Path) -> None:
    (here,) = read_weights([rows], None, Cpu()).values()
    (there,) = read_weights([plain], None, Cpu()).values()
    assert (here.model.variant, there.model.variant) == ("rows-float32", "float32")
    assert here.model.id == there.model.id
    costs = here.memory.weight_costs
    assert costs.layer == sum(tensor.nbytes for tensor in here.manifest.files["mid.00000"].tensors.values())
    if not here.decoder.tied:  # else the end multiplies with the embedding, which is stored plain
        assert costs.end == sum(tensor.nbytes for tensor in here.manifest.files["end"].tensors.values())


def test_what_no_form_here_reads_is_refused(plain: Path) -> None:
    manifest = read_manifest(plain)
    assert (manifest.format, manifest.scheme) == (1, PLAIN_NAME)
    write_manifest(plain, msgspec.structs.replace(manifest, scheme="int3", format=2))
    with pytest.raises(WeightsError, match='stores its matrices as "int3"; this version reads plain'):
        init_part(plain, "f")


def test_the_legacy_layout_has_no_place_for_another_form(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match='stores its matrices as "rows", which the legacy layout has no place for'):
        export_legacy(rows, tmp_path / "legacy")

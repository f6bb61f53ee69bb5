"""Three models on two nodes, neither of which can hold two of them whole: all are answered at once, kept or read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from swarm.falcon.family import FALCON
from swarm.sepweight.convert import convert
from tests.checkpoints import save_checkpoint, save_tokenizer
from tests.processes import Node, chat_json, run_command, stop_all
from tests.swarms import wait_until

NAMES = ("one", "two", "three")
COMMON = ["--host", "127.0.0.1", "--no-mdns"]
LAYERS = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(NAMES):
        checkpoint = folder / f"{name}-checkpoint"
        save_checkpoint("7b", checkpoint, seed, num_hidden_layers=LAYERS, hidden_size=256, num_attention_heads=4)
        save_tokenizer(checkpoint)
        convert(checkpoint, folder / name, FALCON, dtype="bfloat16", name=name)
    return folder


def ask(home: Path, port: int, name: str) -> list[int]:
    asked = ["--raw", "--temperature", "0", "--max-tokens", "12", "--ignore-eos", "--model", name, "--wait", "90"]
    return chat_json(home, [*asked, *COMMON, "--peer", f"127.0.0.1:{port}", "abc"])["token_ids"]


def claims_of(home: Path, port: int) -> list[dict[str, Any]]:
    status = json.loads(run_command("status", home, ["--json", *COMMON, "--peer", f"127.0.0.1:{port}"]).stdout)
    return [claim for node in status["nodes"] for claim in node["claims"]]


def start(home: Path, weights: Path, port: int, names: Sequence[str], memory: str, *options: str) -> Node:
    told = [word for name in names for word in ("--weights", str(weights / name))]
    return Node(home, [*told, *COMMON, "--port", str(port), "--memory", memory, *options])


@pytest.mark.long
@pytest.mark.parametrize(("memory", "reads"), [("49MB", False), ("40MB", True)], ids=["kept", "read"])
def test_all_three_are_answered_at_once(memory: str, reads: bool, tmp_path: Path, weights: Path) -> None:
    expected: dict[str, list[int]] = {}
    nodes = [start(tmp_path, weights, 19400, NAMES, "1GB")]
    try:
        nodes[0].wait_ready()
        expected = {name: ask(tmp_path, 19400, name) for name in NAMES}
        nodes[0].stop()
        nodes = [start(tmp_path, weights, 19410, NAMES, memory)]
        nodes.append(start(tmp_path, weights, 19420, NAMES, memory, "--peer", "127.0.0.1:19410"))

        def is_settled() -> bool:
            claims = claims_of(tmp_path, 19410)
            is_served = {claim["name"] for claim in claims if claim["state"] == "serving"} == set(NAMES)
            is_calm = all(claim["state"] == "serving" for claim in claims) and len(claims) >= 4
            return is_served and is_calm and any(claim["streamed"] for claim in claims) == reads

        try:
            wait_until(is_settled, 90, "three models are served")
        except AssertionError as error:
            raise AssertionError(f"{error}: {claims_of(tmp_path, 19410)}") from None
        assert ask_all(tmp_path) == expected
        nodes.pop().kill()  # the other one is left with all three: what it keeps gives way
        assert ask_all(tmp_path) == expected
        assert any(claim["streamed"] for claim in claims_of(tmp_path, 19410))
    finally:
        stop_all(nodes)


def ask_all(home: Path) -> dict[str, list[int]]:
    with ThreadPoolExecutor(3) as pool:
        return dict(zip(NAMES, pool.map(lambda name: ask(home, 19410, name), NAMES), strict=True))

"""One model in two variants: side by side on one node, and one after the other in one chain."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from swarm.falcon.family import FALCON
from swarm.sepweight.convert import convert
from tests.checkpoints import save_checkpoint, save_tokenizer
from tests.processes import Node, chat_json, run_command
from tests.swarms import wait_until

VARIANTS = ["bfloat16", "float32"]
COMMON = ["--host", "127.0.0.1", "--no-mdns"]


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, list[str]]:
    """What a node is told of each variant's directory."""
    save_checkpoint("7b", tmp_path / "checkpoint")
    save_tokenizer(tmp_path / "checkpoint")
    for variant in VARIANTS:
        convert(tmp_path / "checkpoint", tmp_path / variant, FALCON, dtype=variant)
    return {variant: ["--weights", str(tmp_path / variant)] for variant in VARIANTS}


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Sequence[str]], Node]:
    """Starts a node that is stopped at the end."""

    def begin(arguments: Sequence[str]) -> Node:
        node = Node(tmp_path, [*COMMON, "--port", "18860", *arguments])
        request.addfinalizer(node.stop)
        return node

    return begin


def ask(home: Path, node: Node) -> dict[str, Any]:
    asked = ["--raw", "--temperature", "0", "--max-tokens", "8", "--ignore-eos", "--peer", node.wait_ready()[4]]
    return chat_json(home, [*asked, *COMMON, "abc"])


@pytest.mark.slow
def test_a_node_that_has_room_serves_both(
    tmp_path: Path, weights: dict[str, list[str]], start: Callable[[Sequence[str]], Node]
) -> None:
    node = start([*weights["float32"], *weights["bfloat16"]])
    reach = [*COMMON, "--peer", node.wait_ready()[4]]

    def serves_both() -> bool:
        status = json.loads(run_command("status", tmp_path, ["--json", *reach]).stdout)
        claims = [(one["variant"], one["part"], one["state"]) for one in status["nodes"][0]["claims"]]
        return sorted(claims) == [(variant, "b 0-4 e", "serving") for variant in VARIANTS]

    wait_until(serves_both, 30, "both variants are served")
    answer = ask(tmp_path, node)
    assert len(answer["token_ids"]) == 8
    assert [hop["part"] for hop in answer["route"]] == ["b 0-4 e"]


@pytest.mark.slow
def test_a_chain_mixes_them_where_neither_is_complete(
    tmp_path: Path, weights: dict[str, list[str]], start: Callable[[Sequence[str]], Node]
) -> None:
    first = start([*weights["float32"], "--part", "b 0-2"])
    last = start([*weights["bfloat16"], "--part", "2-4 e", "--peer", first.wait_ready()[4]])
    answer = ask(tmp_path, last)
    assert len(answer["token_ids"]) == 8
    assert [(hop["variant"], hop["part"]) for hop in answer["route"]] == [("float32", "b 0-2"), ("bfloat16", "2-4 e")]

"""Three hosts that find each other by mDNS alone and share out a model that none of them can hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from swarm.keys import make_secret
from tests import lan
from tests.checkpoints import save_checkpoint, save_tokenizer
from tests.demo_model import ANSWER, QUESTION
from tests.processes import DEMO, Node, chat_json, run_command, stop_all
from tests.swarms import wait_until
from tests.test_three_nodes import PROMPT

MEASURED_SECONDS = 100.0  # links are measured each 30 s, and a busy machine spoils some of it
# Two layers with their KV and scratch, of four.
MEMORY = {"7b": "8.9MB", "40b": "9.7MB", "rw": "17.5MB"}


pytestmark = [pytest.mark.lan, pytest.mark.slow, pytest.mark.skipif(not lan.is_possible(), reason=lan.REASON)]


def make_home(folder: Path, name: str) -> Path:
    """A home of its own for a host, which holds the swarm's secret."""
    home = folder / name
    (home / "config" / "swarm").mkdir(parents=True)
    shutil.copy(folder / "secret", home / "config" / "swarm" / "secret")
    return home


@pytest.mark.parametrize("variant", ["7b", "40b", "rw"])
def test_three_hosts_find_each_other_and_answer_as_transformers(variant: str, tmp_path: Path) -> None:
    model = save_checkpoint(variant, tmp_path / "checkpoint")
    tokenizer = save_tokenizer(tmp_path / "checkpoint")
    run_command("weights", tmp_path, ["convert", str(tmp_path / "checkpoint"), str(tmp_path / "weights")])
    make_secret(tmp_path / "secret")
    nodes: list[Node] = []
    with lan.lan(4) as hosts:
        try:
            for host in hosts[:3]:
                options = ["--weights", str(tmp_path / "weights"), "--memory", MEMORY[variant]]
                nodes.append(Node(make_home(tmp_path, host.name), options, host.prefix))
            parts = [node.wait_ready()[2] for node in nodes]
            assert all(part != "b 0-4 e" for part in parts), f"a node holds everything: {parts}"
            asked = ["--raw", "--temperature", "0", "--max-tokens", "64", "--ignore-eos", PROMPT]
            answer = chat_json(make_home(tmp_path, "laptop"), asked, hosts[3].prefix)
        finally:
            stop_all(nodes)
    ids = tokenizer.encode(PROMPT).ids
    expected = model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False, eos_token_id=None)
    assert answer["token_ids"] == expected[0, len(ids) :].tolist()
    assert len({hop["node"] for hop in answer["route"]}) > 1


def test_a_slow_link_is_measured(tmp_path: Path) -> None:
    """16 Mbit/s are 2 MB/s; nodes publish what they measure towards the nodes that they send data to."""
    make_secret(tmp_path / "secret")
    nodes: list[Node] = []
    with lan.lan(3) as hosts:
        try:
            hosts[0].limit("16mbit")
            for host, part in zip(hosts[:2], ("b 0-3", "3-6 e"), strict=True):
                options = ["--weights", str(DEMO), "--part", part]
                nodes.append(Node(make_home(tmp_path, host.name), options, host.prefix))
            ids = [node.wait_ready()[1] for node in nodes]
            laptop = make_home(tmp_path, "laptop")
            answer = chat_json(laptop, ["--temperature", "0", QUESTION], hosts[2].prefix)
            assert answer["text"] == ANSWER

            def are_right() -> bool:
                status = json.loads(run_command("status", laptop, ["--json"], hosts[2].prefix).stdout)
                rates = {node["node"]: node["bytes_per_second"] for node in status["nodes"]}
                if not all(rates.get(node) for node in ids):
                    return False
                return 1.2e6 < rates[ids[0]][ids[1]] < 2.4e6 and rates[ids[1]][ids[0]] > 4e6

            wait_until(are_right, MEASURED_SECONDS, "both nodes publish how fast their links are")
        finally:
            stop_all(nodes)

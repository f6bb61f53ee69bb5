"""Three hosts that find each other by mDNS alone and share out a model that none of them can hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from swarm.keys import make_secret
from tests import lan
from tests.checkpoints import save_checkpoint
from tests.processes import Node, chat_json, run_command
from tests.test_three_nodes import PROMPT, save_tokenizer

# Two layers with their KV and scratch, of four.
MEMORY = {"7b": "3.1MB", "40b": "3.8MB", "rw": "5.1MB"}


@pytest.mark.lan
@pytest.mark.slow
@pytest.mark.skipif(not lan.is_possible(), reason=lan.REASON)
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
                home = tmp_path / host.name
                (home / "config" / "swarm").mkdir(parents=True)
                shutil.copy(tmp_path / "secret", home / "config" / "swarm" / "secret")
                nodes.append(
                    Node(home, ["--weights", str(tmp_path / "weights"), "--memory", MEMORY[variant]], host.prefix)
                )
            parts = [node.wait_ready()[2] for node in nodes]
            assert all(part != "b 0-4 e" for part in parts), f"a node holds everything: {parts}"
            home = tmp_path / "laptop"
            (home / "config" / "swarm").mkdir(parents=True)
            shutil.copy(tmp_path / "secret", home / "config" / "swarm" / "secret")
            asked = ["--raw", "--temperature", "0", "--max-tokens", "64", "--ignore-eos", PROMPT]
            answer = chat_json(home, asked, hosts[3].prefix)
        finally:
            for node in nodes:
                node.stop()
    ids = tokenizer.encode(PROMPT).ids
    expected = model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False, eos_token_id=None)
    assert answer["token_ids"] == expected[0, len(ids) :].tolist()
    assert len({hop["node"] for hop in answer["route"]}) > 1

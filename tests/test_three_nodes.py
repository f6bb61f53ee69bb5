"""Three real nodes serve a converted checkpoint of each layout; the answer is that of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests import checkpoints
from tests.checkpoints import COMMON
from tests.llama import members
from tests.processes import Node, chat_json, run_command, stop_all

PARTS = ["b 0-1", "1-3", "3-4 e"]
PROMPT = "abcdefgh hgfedcba"


def save_tokenizer(directory: Path) -> Tokenizer:
    """One token a byte, as far as the tiny vocabulary goes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: COMMON["vocab_size"]]
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["7b", "40b", "rw", "llama, wide heads", "qwen2, windows"])
def test_three_nodes_give_the_tokens_of_transformers(layout: str, tmp_path: Path) -> None:
    made = members if layout in members.MEMBERS else checkpoints
    model = made.save_checkpoint(layout, tmp_path / "checkpoint")
    tokenizer = save_tokenizer(tmp_path / "checkpoint")
    weights = tmp_path / "weights"
    converted = run_command("weights", tmp_path, ["convert", str(tmp_path / "checkpoint"), str(weights)])
    assert converted.returncode == 0, converted.stderr
    nodes: list[Node] = []
    try:
        for part in PARTS:
            peers = [word for node in nodes for word in ("--peer", node.wait_ready()[4])]
            common = ["--weights", str(weights), "--host", "127.0.0.1", "--port", "18800", "--no-mdns"]
            nodes.append(Node(tmp_path, [*common, "--part", part, *peers]))
        address = nodes[-1].wait_ready()[4]
        asked = ["--raw", "--temperature", "0", "--max-tokens", "64", "--ignore-eos"]
        answer = chat_json(tmp_path, [*asked, "--peer", address, "--no-mdns", "--host", "127.0.0.1", PROMPT])
    finally:
        stop_all(nodes)
    ids = tokenizer.encode(PROMPT).ids
    expected = model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False, eos_token_id=None)
    assert answer["prompt_token_ids"] == ids
    assert answer["token_ids"] == expected[0, len(ids) :].tolist()
    assert answer["finish_reason"] == "length"
    assert [hop["part"] for hop in answer["route"]] == PARTS

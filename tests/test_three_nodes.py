"""Three real nodes serve converted checkpoints of every family; each answer is that of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from swarm.checkpoints import open_checkpoint
from swarm.sepweight.convert import convert_source
from tests.checkpoints import save_tokenizer
from tests.layouts import maker_of
from tests.processes import Node, chat_json, run_command, stop_all

FALCONS = ("7b", "40b", "rw")
LLAMAS = (
    "llama, wide heads",
    "mistral",
    "qwen2, windows",
    "qwen3",
    "phi3, longrope",
    "granite",
    "smollm3",
    "gemma",
    "gemma2",
    "gemma3",
)
LAYOUTS = (*FALCONS, *LLAMAS)
PARTS = ["b 0-1", "1-3", "3-4 e"]
PROMPT = "abcdefgh hgfedcba"


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The home of three nodes, each with its part of every model, and an address; checkpoints lie in the home."""
    home = tmp_path_factory.mktemp("swarm")
    all_weights: list[str] = []
    for layout in LAYOUTS:
        checkpoint, weights = home / "checkpoints" / layout, home / "weights" / layout
        maker_of(layout).save_checkpoint(layout, checkpoint)
        save_tokenizer(checkpoint)
        with open_checkpoint(checkpoint) as opened:
            convert_source(opened.source, weights, opened.family)
        all_weights += ["--weights", str(weights)]
    nodes: list[Node] = []
    try:
        for part in PARTS:
            peers = [word for node in nodes for word in ("--peer", node.wait_ready()[4])]
            common = [*all_weights, "--host", "127.0.0.1", "--port", "18800", "--no-mdns"]
            nodes.append(Node(home, [*common, "--part", part, *peers]))
        yield home, nodes[-1].wait_ready()[4]
    finally:
        stop_all(nodes)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_nodes_give_the_tokens_of_transformers(swarm: tuple[Path, str], layout: str) -> None:
    home, address = swarm
    common = ["--peer", address, "--no-mdns", "--host", "127.0.0.1"]
    asked = ["--raw", "--temperature", "0", "--max-tokens", "64", "--ignore-eos", "--wait", "30"]
    answer = chat_json(home, ["--model", layout, *asked, *common, PROMPT])
    model = AutoModelForCausalLM.from_pretrained(home / "checkpoints" / layout)
    ids = Tokenizer.from_file(str(home / "weights" / layout / "tokenizer.json")).encode(PROMPT).ids
    expected = model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False, eos_token_id=None)
    assert answer["prompt_token_ids"] == ids
    assert answer["token_ids"] == expected[0, len(ids) :].tolist()
    assert answer["finish_reason"] == "length"
    assert [hop["part"] for hop in answer["route"]] == PARTS


@pytest.mark.slow
def test_answers_are_scored_as_transformers_finds_them(swarm: tuple[Path, str]) -> None:
    home, address = swarm
    layout, answers = LLAMAS[0], ["abc", "hgfedcba", "h"]
    where = ["--peer", address, "--no-mdns", "--host", "127.0.0.1", "--model", layout, "--raw"]
    of = [word for answer in answers for word in ("--of", answer)]
    model = AutoModelForCausalLM.from_pretrained(home / "checkpoints" / layout)
    tokenizer = Tokenizer.from_file(str(home / "weights" / layout / "tokenizer.json"))
    prompt = tokenizer.encode(PROMPT).ids
    expected: list[float] = []
    for answer in answers:
        ids = tokenizer.encode(answer).ids
        with torch.inference_mode():
            logs = model(torch.tensor([prompt + ids[:-1]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
        expected.append(float(logs.gather(1, torch.tensor(ids)[:, None]).sum()))
    told = chat_json(home, [*where, "--score", PROMPT, *of])
    assert [one["log_probability"] for one in told["answers"]] == pytest.approx(expected, abs=1e-4)
    assert told["best"] == expected.index(max(expected))
    lines = run_command(
        "chat", home, [*where, "--jsonl", "--likeliest", "2", "--score", PROMPT, *of]
    ).stdout.splitlines()
    tokens = [json.loads(line) for line in lines[:-1]]
    assert [(one["answer"], one["text"]) for one in tokens] == [
        (number, letter) for number, answer in enumerate(answers) for letter in answer
    ]
    assert all(len(one["likeliest"]) == 2 for one in tokens)
    plain = run_command("chat", home, [*where, "--score", PROMPT, *of]).stdout.splitlines()
    assert [line.split()[1] for line in plain] == [*answers, answers[told["best"]]]
    for wrong in (
        ["--score", PROMPT],
        ["--score", "--of", "x"],
        [PROMPT, "--of", "x"],
        ["--score", PROMPT, "--of", ""],
    ):
        done = run_command("chat", home, [*where, *wrong], text="")
        assert done.returncode != 0
        assert "--of" in done.stderr or "has no token" in done.stderr

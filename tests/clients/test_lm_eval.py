"""lm-evaluation-harness: scores over HTTP are those of its own Hugging Face backend, item by item."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import FalconForCausalLM

from tests.clients.conftest import CLIENTS, NAME, Served

QUESTIONS = 100
TASK = """
task: closed
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}]
"""

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


def write_task(folder: Path, checkpoint: Path) -> None:
    """Questions of which half have the model's own greedy answer among the choices."""
    rng = random.Random(1)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    model = FalconForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    letters = [letter for letter in map(chr, range(33, 127)) if tokenizer.encode(letter).ids]

    def word() -> str:
        return "".join(rng.choices(letters, k=rng.randint(1, 6)))

    lines: list[str] = []
    for number in range(QUESTIONS):
        question = " ".join(word() for _ in range(rng.randint(1, 40)))
        choices = [word() for _ in range(4)]
        if number % 2:
            ids = tokenizer.encode(question).ids
            asked = torch.tensor([ids])
            made = model.generate(asked, max_new_tokens=3, do_sample=False, pad_token_id=96, eos_token_id=None)
            greedy = tokenizer.decode(made[0, len(ids) :].tolist())
            if tokenizer.encode(question + greedy).ids == made[0].tolist():
                choices[number % 4] = greedy
        lines.append(json.dumps({"question": question, "choices": choices, "answer": number % 4}))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "closed.yaml").write_text(TASK % (folder / "questions.jsonl"))


def evaluate(folder: Path, name: str, model: str, arguments: Sequence[str]) -> dict[int, list[tuple[float, bool]]]:
    """Question → each choice's log-probability, and whether the model's greedy answer is that."""
    command = [str(CLIENTS / "lm-eval"), "run", "--model", model, "--model_args", ",".join(arguments)]
    command += ["--tasks", "closed", "--include_path", str(folder), "--output_path", str(folder / name)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = subprocess.run(
        [*command, "--log_samples", "--batch_size", "8"],
        env={**os.environ, **offline, "OPENAI_API_KEY": "none", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (samples,) = (folder / name).rglob("samples_closed_*.jsonl")
    found: dict[int, list[tuple[float, bool]]] = {}
    for line in map(json.loads, samples.read_text().splitlines()):
        found[line["doc_id"]] = [(float(score), str(greedy) == "True") for ((score, greedy),) in line["resps"]]
    return found


def test_scores_are_those_of_its_own_backend(served: Served, tmp_path: Path) -> None:
    write_task(tmp_path, served.checkpoint)
    own = evaluate(tmp_path, "own", "hf", [f"pretrained={served.checkpoint}", "dtype=float32", "max_length=512"])
    address = f"base_url={served.gateway.url}/v1/completions"
    ours = evaluate(
        tmp_path,
        "ours",
        "local-completions",
        [f"model={NAME}", address, f"tokenizer={served.checkpoint}", "num_concurrent=4", "max_length=512"],
    )
    assert own.keys() == ours.keys() == set(range(QUESTIONS))
    greedy = 0
    for number, choices in own.items():
        for (expected, expected_greedy), (score, is_greedy) in zip(choices, ours[number], strict=True):
            assert score == pytest.approx(expected, abs=2e-4), number
            assert is_greedy == expected_greedy, number
            greedy += is_greedy
    assert greedy >= 10, "some answers are the model's own"

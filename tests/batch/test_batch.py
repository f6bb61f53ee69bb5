"""A file of prompts, all computed together: the same as one by one, kept or from disk, interrupted or not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swarm.batch.partial import Partial
from swarm.batch.run import Summary, run_batch
from swarm.batch.settings import BatchSettings
from swarm.decoder.loading import load_tokenizer
from swarm.errors import RequestError
from swarm.loading import init_part
from tests.demo_model import WEIGHTS
from tests.processes import run_command

LINES: list[object] = [
    {"prompt": "Say the words after: one two three", "max_tokens": 9},
    {"messages": [{"role": "user", "content": "What is a sepweight directory?"}]},
    {"prompt": "A layer", "continuations": [" is a file", " is a fish"]},
    "nonsense",
    {"custom_id": "mine", "body": {"prompt": "The swarm", "max_tokens": 5}},
]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    return path


def run(settings: BatchSettings, source: Path, name: str) -> tuple[list[dict[str, object]], Summary]:
    target = source.with_name(name)
    summary = run_batch(settings, source, target, lambda said: None)
    assert not target.with_name(f"{name}.partial").exists()
    return [json.loads(line) for line in target.read_text().splitlines()], summary


def test_each_line_is_done_as_if_it_were_alone(weights: Path, source: Path) -> None:
    settings = BatchSettings(weights=weights, max_tokens=24)
    found, summary = run(settings, source, "out.jsonl")
    assert (summary.lines, summary.bad) == (5, 1)
    for number, line in enumerate(LINES):
        alone = source.with_name(f"alone{number}.jsonl")
        alone.write_text("\n" * number + json.dumps(line))
        assert run(settings, alone, f"out{number}.jsonl")[0] == [found[number]]
    assert found[3] == {"line": 4, "error": "no JSON object"}
    assert found[4]["custom_id"] == "mine"
    assert found[2]["best"] in (0, 1)


def test_scores_are_those_of_the_model_itself(weights: Path, source: Path) -> None:
    (*_, scored), _ = run(BatchSettings(weights=weights), source.with_name("in.jsonl"), "a.jsonl")
    del scored
    text = "The swarm runs a model over several machines."
    source.write_text(json.dumps({"prompt": text}))
    (found,), _ = run(BatchSettings(weights=weights, scores=True), source, "b.jsonl")
    ids = load_tokenizer(weights).encode(text).ids
    logs = init_part(weights, "f")(torch.tensor(ids)).log_softmax(-1)
    expected = sum(float(logs[row, token]) for row, token in enumerate(ids[1:]))
    assert found["log_probability"] == pytest.approx(expected, rel=1e-6)
    assert found["tokens"] == len(ids) - 1


def test_with_little_memory_layers_come_from_disk_and_texts_in_groups(weights: Path, source: Path) -> None:
    settings = BatchSettings(weights=weights, max_tokens=24)
    expected, roomy = run(settings, source, "out.jsonl")
    found, tight = run(replace(settings, memory="7.9MB"), source, "tight.jsonl")
    assert found == expected
    assert (roomy.streamed, roomy.groups) == (0, 2)
    assert tight.streamed > 0
    with pytest.raises(RequestError, match=r"1 MB is too little: swarm-demo needs .* pass --memory \d+MB or more"):
        run(replace(settings, memory="1MB"), source, "none.jsonl")


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_what_is_interrupted_goes_on_where_it_was(
    steps: int, weights: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BatchSettings(weights=weights, max_tokens=24)
    expected, whole = run(settings, source, "out.jsonl")
    note, done = Partial.note, 0

    def note_some(self: Partial, *said: dict[str, object]) -> None:
        nonlocal done
        if done == steps:
            raise RequestError("the disk is full")
        done += 1
        note(self, *said)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Partial, "note", note_some)
    with pytest.raises(RequestError, match="the disk is full"):
        run(settings, source, "again.jsonl")
    monkeypatch.undo()
    found, rest = run(settings, source, "again.jsonl")
    assert found == expected
    assert (rest.tokens < whole.tokens) == (steps > 0)
    run(settings, source, "other.jsonl")
    (source.parent / "third.jsonl.partial").write_text('{"of": "something else"}\n')
    with pytest.raises(RequestError, match="is of another input"):
        run(settings, source, "third.jsonl")


def test_an_output_that_exists_is_left_alone(weights: Path, source: Path) -> None:
    source.with_name("out.jsonl").write_text("mine")
    with pytest.raises(RequestError, match=r"out.jsonl exists; remove it, or name another output"):
        run(BatchSettings(weights=weights), source, "out.jsonl")


def test_the_command_says_what_came_of_it(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out.jsonl"
    done = run_command("batch", tmp_path, [str(source), str(target), "--weights", str(WEIGHTS), "--max-tokens", "4"])
    assert done.returncode == 1
    assert done.stdout.startswith("4 of 5 lines done, ")
    assert "1 lines could not be done" in done.stderr
    assert len(target.read_text().splitlines()) == 5

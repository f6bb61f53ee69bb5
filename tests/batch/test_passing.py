"""Texts that are scored go through each layer once: their hidden states may lie on disk, or go to another machine."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swarm.batch import run as batch_run
from swarm.batch.rows import NOTHING, RowsOnDisk
from swarm.batch.run import Summary, run_batch
from swarm.batch.settings import BatchSettings
from swarm.batch.sharing import Share, share_memory
from swarm.decoder.device import Cpu
from swarm.errors import RequestError
from swarm.node.compute.models import read_weights
from swarm.parts import whole
from tests.processes import DEMO as WEIGHTS

LAYERS = 6
TEXTS = [
    "The swarm runs a model over several machines.",
    "A layer is a file, and a node reads what it lacks the memory for.",
    "One two three four five six seven eight nine ten, and then eleven.",
    "What is a sepweight directory? One file a layer.",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines: list[object] = [{"prompt": text} for text in TEXTS]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [*lines, "nonsense"]))
    return path


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.batch.engine.PIECE_TOKENS", 16)
    monkeypatch.setattr("swarm.batch.run.PIECE_TOKENS", 16)


@pytest.fixture
def spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden states go to disk whatever memory there is."""
    monkeypatch.setattr(batch_run, "share_memory", share_and_spill)


def share_and_spill(*given: object) -> Share:
    return replace(share_memory(*given), is_spilled=True)  # pyright: ignore[reportArgumentType]


SCORES = BatchSettings(weights=WEIGHTS, scores=True)


def run(settings: BatchSettings, source: Path, name: str) -> tuple[list[dict[str, object]], Summary]:
    target = source.with_name(name)
    summary = run_batch(settings, source, target, lambda said: None)
    assert not list(source.parent.glob("*.partial"))
    assert not list(source.parent.glob("*.spill"))
    return [json.loads(line) for line in target.read_text().splitlines()], summary


def test_hidden_states_go_to_disk_where_memory_has_no_room_for_them(source: Path) -> None:
    """With the least memory that the command takes: for what is in a layer at a time."""
    weights = Path(shutil.copytree(WEIGHTS, source.with_name("weights")))  # layers are packed there
    (local,) = read_weights([weights], None, Cpu(), None).values()
    expected, roomy = run(SCORES, source, "out.jsonl")
    assert not roomy.is_spilled
    texts = batch_run.Writer(SCORES, local).write_prompts(batch_run.read_lines(source))[0]
    every = [text for some in texts.values() for text in some]
    budget = 0
    while True:
        try:
            share = share_memory(local, whole(LAYERS), None, budget, every, 16)
            break
        except RequestError:
            budget += 1000
    assert share.is_spilled
    assert not share_memory(local, whole(LAYERS), None, 2 * budget, every, 16).is_spilled
    found, tight = run(replace(SCORES, weights=weights, memory=f"{budget}"), source, "tight.jsonl")
    assert tight.is_spilled
    assert found == expected


@pytest.mark.usefixtures("spilled")
@pytest.mark.parametrize("layers", [0, 1, 4, 6])
def test_what_is_interrupted_goes_on_at_the_layer_where_it_was(
    layers: int, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a layer, or while it is scored: what that layer had written is made again."""
    expected, _ = run(SCORES, source, "out.jsonl")
    write, end_layer = RowsOnDisk.write, RowsOnDisk.end_layer
    ended = written = 0

    def write_some(self: RowsOnDisk, piece: int, hidden: torch.Tensor) -> None:
        nonlocal written
        if self.done >= layers and piece == 1:
            raise RequestError("killed")
        written += 1
        write(self, piece, hidden)

    def end_some(self: RowsOnDisk) -> None:
        nonlocal ended
        end_layer(self)
        ended += 1

    monkeypatch.setattr(RowsOnDisk, "write", write_some)
    if layers == LAYERS:
        monkeypatch.setattr(batch_run.PassingThrough, "score", lambda self, piece: fail())
    with pytest.raises(RequestError, match="killed"):
        run(SCORES, source, "again.jsonl")
    monkeypatch.undo()
    monkeypatch.setattr("swarm.batch.engine.PIECE_TOKENS", 16)
    monkeypatch.setattr(batch_run, "share_memory", share_and_spill)
    monkeypatch.setattr(RowsOnDisk, "end_layer", end_some)
    found, _ = run(SCORES, source, "again.jsonl")
    assert found == expected
    assert ended == LAYERS - layers


def fail() -> None:
    raise RequestError("killed")


@pytest.mark.usefixtures("spilled")
def test_a_directory_that_is_full_is_told_and_the_same_command_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spill = tmp_path / "spill"
    spill.mkdir()
    settings = replace(SCORES, spill=spill)
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    full = (
        r"spill/out.jsonl.spill cannot be made: the disk is full, and hidden states take .*; make room, or pass --spill"
    )
    with pytest.raises(RequestError, match=full):
        run(settings, source, "out.jsonl")
    assert not list(spill.iterdir())
    monkeypatch.undo()
    found, _ = run(settings, source, "out.jsonl")
    assert len(found) == len(TEXTS) + 1


def test_what_lies_on_disk_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    rows = RowsOnDisk(path, [3, 1, 2], 5, torch.bfloat16, NOTHING)
    values = [torch.randint(-9, 9, (length, 5)).to(torch.bfloat16) for length in (3, 1, 2)]
    for piece, value in enumerate(values):
        rows.write(piece, value)
    rows.end_layer()
    for done in range(3):
        rows = RowsOnDisk(path, [3, 1, 2], 5, torch.bfloat16, done)
        assert rows.done == done
        for piece, value in enumerate(values):
            assert torch.equal(rows.read(piece), value + done)
            rows.write(piece, value + done + 1)
            assert torch.equal(rows.read(piece), value + done), "until the layer ends"
        rows.end_layer()
    assert RowsOnDisk(path, [3, 1], 5, torch.bfloat16, 3).done == NOTHING, "of other texts"


# Parts on several machines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("specs", [["b 0-3", "3-6 e"], ["b 0-1", "1-4", "4-6 e"], ["b 0-6", "e"]])
def test_another_machine_goes_on_where_one_ended(specs: list[str], source: Path) -> None:
    continued = source.with_name("continued.jsonl")
    continued.write_text(source.read_text() + json.dumps({"prompt": "A layer", "continuations": [" is", " was not"]}))
    expected, whole_run = run(SCORES, continued, "out.jsonl")
    at = continued
    for number, spec in enumerate(specs):
        target = source.with_name(f"states{number}.safetensors")
        done = run_batch(replace(SCORES, part=spec), at, target, lambda said: None)
        assert (done.lines, done.bad) == (whole_run.lines, whole_run.bad)
        at = target
    assert [json.loads(line) for line in at.read_text().splitlines()] == expected


def test_what_cannot_be_gone_on_with_is_refused(source: Path) -> None:
    first = source.with_name("first.safetensors")
    with pytest.raises(RequestError, match="is no file of hidden states that swarm-batch --part wrote"):
        run_batch(replace(SCORES, part="2-6 e"), source, source.with_name("a.jsonl"), print)
    with pytest.raises(RequestError, match=r'what "b 0-2" makes is hidden states; name the output \*.safetensors'):
        run_batch(replace(SCORES, part="b 0-2"), source, source.with_name("a.jsonl"), print)
    with pytest.raises(RequestError, match="an answer goes through all layers for each of its tokens"):
        run_batch(BatchSettings(weights=WEIGHTS, part="b 0-2"), source, first, print)
    run_batch(replace(SCORES, part="b 0-2"), source, first, lambda said: None)
    with pytest.raises(RequestError, match=r'first.safetensors goes on with layer 2; pass --part "2-…"'):
        run_batch(replace(SCORES, part="3-6 e"), first, source.with_name("a.jsonl"), print)
    other = source.with_name("other.safetensors")
    save_file({"hidden": torch.zeros(3, 8)}, other)
    with pytest.raises(RequestError, match="is no file of hidden states"):
        run_batch(replace(SCORES, part="2-6 e"), other, source.with_name("a.jsonl"), print)
    data = first.read_bytes()
    other.write_bytes(data[:-7])
    with pytest.raises(RequestError, match="is no file of hidden states"):
        run_batch(replace(SCORES, part="2-6 e"), other, source.with_name("a.jsonl"), print)

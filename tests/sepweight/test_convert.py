"""Conversion: what goes in comes out, interrupted or not, and bad input is named."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import FalconConfig

from swarm.errors import WeightsError
from swarm.falcon import init_part
from swarm.falcon.family import FALCON
from swarm.parts import parse_part, whole
from swarm.sepweight import dump as dumping
from swarm.sepweight import load
from swarm.sepweight.convert import JOURNAL_NAME, convert
from swarm.sepweight.export import export_legacy
from swarm.sepweight.manifest import find_faults, read_manifest
from swarm.sepweight.store import Store
from tests.checkpoints import COMMON, VARIANTS, save_checkpoint
from tests.processes import peak_memory, run_command

IDS = torch.tensor([5, 17, 80, 3])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint("7b", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def logits(directory: Path) -> torch.Tensor:
    return init_part(directory, "f")(IDS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shards_and_pickled_shards_convert_to_the_same_model(variant: str, tmp_path: Path) -> None:
    model = save_checkpoint(variant, tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    (tmp_path / "bin").mkdir()
    shutil.copy(tmp_path / "one" / "config.json", tmp_path / "bin")
    torch.save(load_file(tmp_path / "one" / "model.safetensors"), tmp_path / "bin" / "pytorch_model.bin")
    ids = {convert(tmp_path / form, tmp_path / f"{form}-out", FALCON).model_id for form in ("one", "many", "bin")}
    assert len(ids) == 1
    assert torch.equal(logits(tmp_path / "many-out"), logits(tmp_path / "one-out"))
    assert torch.equal(logits(tmp_path / "bin-out"), logits(tmp_path / "one-out"))


def test_a_tied_head_is_stored_once_under_either_name(tmp_path: Path, checkpoint: Path) -> None:
    first = convert(checkpoint, tmp_path / "a", FALCON)
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("transformer.word_embeddings.weight")
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    second = convert(checkpoint, tmp_path / "b", FALCON)
    assert first.model_id == second.model_id
    assert "lm_head.weight" not in first.files["end"].tensors
    assert first.aliases == {"end": {"lm_head.weight": "begin/word_embeddings.weight"}}
    assert torch.equal(logits(tmp_path / "a"), logits(tmp_path / "b"))


def test_another_dtype_keeps_the_model_id(tmp_path: Path, checkpoint: Path) -> None:
    exact = convert(checkpoint, tmp_path / "a", FALCON)
    short = convert(checkpoint, tmp_path / "b", FALCON, dtype="bfloat16")
    assert exact.model_id == short.model_id
    assert short.dtype == "bfloat16"
    assert next(iter(load(tmp_path / "b", "0-1")["mid.00000"].values())).dtype == torch.bfloat16


def test_another_way_of_computing_is_another_model(tmp_path: Path, checkpoint: Path) -> None:
    """A chain of both would say what neither does."""
    usual = convert(checkpoint, tmp_path / "a", FALCON)
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"transformers_version": "5.0"}))
    assert convert(checkpoint, tmp_path / "b", FALCON).model_id == usual.model_id
    path.write_text(json.dumps(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}}))
    assert convert(checkpoint, tmp_path / "c", FALCON).model_id != usual.model_id


def test_an_interrupted_conversion_resumes(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_manifest = convert(checkpoint, tmp_path / "whole", FALCON)

    def interrupt(done: int, total: int, key: str) -> None:
        if key == "mid.00001":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path / "out", FALCON, progress=interrupt)
    assert not (tmp_path / "out" / "sepweight.json").exists()
    assert (tmp_path / "out" / JOURNAL_NAME).exists()
    before = (tmp_path / "out" / "mid.00000.safetensors").stat().st_mtime_ns
    written: list[str] = []
    save = dumping.save_part
    monkeypatch.setattr(dumping, "save_part", lambda path, *rest: (written.append(path.name), save(path, *rest)))
    resumed = convert(checkpoint, tmp_path / "out", FALCON, name="whole")
    assert resumed == whole_manifest
    assert (tmp_path / "out" / "mid.00000.safetensors").stat().st_mtime_ns == before
    assert written == ["mid.00002.safetensors", "mid.00003.safetensors", "end.safetensors"]
    assert not (tmp_path / "out" / JOURNAL_NAME).exists()


def test_a_full_disk_says_how_much_is_needed_and_keeps_what_is_done(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = os.posix_fallocate

    def fill_up(descriptor: int, offset: int, length: int) -> None:
        if (tmp_path / "out" / "mid.00001.safetensors").exists():
            raise OSError(28, "No space left on device")
        claim(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", fill_up)
    with pytest.raises(WeightsError, match=r"disk full while writing .*mid\.00002.*still needs [\d,]+ bytes"):
        convert(checkpoint, tmp_path / "out", FALCON)
    assert not list((tmp_path / "out").glob("*.tmp"))
    monkeypatch.setattr(os, "posix_fallocate", claim)
    convert(checkpoint, tmp_path / "out", FALCON)
    assert logits(tmp_path / "out").isfinite().all()


def test_the_legacy_layout_goes_both_ways(tmp_path: Path, checkpoint: Path) -> None:
    ours = convert(checkpoint, tmp_path / "ours", FALCON)
    export_legacy(tmp_path / "ours", tmp_path / "legacy")
    assert sorted(path.name for path in (tmp_path / "legacy").glob("*.pth")) == [
        "begin.pth",
        "end.pth",
        *(f"mid.{layer:05d}.pth" for layer in range(4)),
    ]
    back = convert(tmp_path / "legacy", tmp_path / "back", FALCON)
    assert back.model_id == ours.model_id
    assert torch.equal(logits(tmp_path / "back"), logits(tmp_path / "ours"))


def test_legacy_keys_may_carry_a_prefix_and_files_may_nest(tmp_path: Path, checkpoint: Path) -> None:
    ours = convert(checkpoint, tmp_path / "ours", FALCON)
    nested = tmp_path / "nested"
    for key in ours.files:
        folder = {"begin": nested / "start", "end": nested / "end"}.get(
            key, nested / "mid" / key[4:].lstrip("0").zfill(1)
        )
        folder.mkdir(parents=True)
        for name in ours.tensor_names(key):
            prefix = f"h.{int(key[4:])}." if key.startswith("mid") else ""
            torch.save(Store(tmp_path / "ours").read(key, name), folder / f"{prefix}{name}.pth")
    shutil.copy(checkpoint / "config.json", nested)
    assert convert(nested, tmp_path / "back", FALCON).model_id == ours.model_id


def change_config(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, 'model_type "llama" is unsupported'),
        ({"sliding_window": 4096}, "unknown key sliding_window"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, 'rope scaling of type "yarn"'),
        ({"activation": "mish"}, 'activation "mish" is unsupported'),
        ({"num_attention_heads": 5}, "must divide by 5 heads"),
        ({"hidden_size": 128}, r"begin/word_embeddings.weight has shape \[97, 64\], the config implies \[97, 128\]"),
        ({"num_hidden_layers": 6}, r"no shard holds transformer\.h\.4\."),
    ],
)
def test_a_config_that_does_not_fit_is_named(
    change: dict[str, object], message: str, tmp_path: Path, checkpoint: Path
) -> None:
    change_config(checkpoint, **change)
    with pytest.raises(WeightsError, match=message):
        convert(checkpoint, tmp_path / "out", FALCON)
    assert not (tmp_path / "out" / "sepweight.json").exists()
    assert not list(tmp_path.glob("out/*.tmp"))


def test_missing_and_truncated_files_are_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        convert(tmp_path / "nowhere", tmp_path / "out", FALCON)
    shard = checkpoint / "model.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"model\.safetensors is cut short"):
        convert(checkpoint, tmp_path / "out", FALCON)
    shard.unlink()
    with pytest.raises(WeightsError, match="holds no"):
        convert(checkpoint, tmp_path / "out", FALCON)


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    (checkpoint / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Evil()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin cannot be read"):
        convert(checkpoint, tmp_path / "out", FALCON)
    assert not (tmp_path / "owned").exists()


def test_damage_on_disk_is_found(tmp_path: Path, checkpoint: Path) -> None:
    directory = tmp_path / "out"
    manifest = convert(checkpoint, directory, FALCON)
    assert list(find_faults(directory, manifest)) == []
    path = directory / "mid.00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert [str(path) in fault for fault in find_faults(directory, manifest)] == [True]
    path.write_bytes(data[:-10])
    with pytest.raises(WeightsError, match=r"mid\.00002\.safetensors has \d+ bytes, the manifest says"):
        Store(directory).check(whole(4))
    Store(directory).check(parse_part("b 0-2", 4))  # other parts are of no concern
    text = (directory / "sepweight.json").read_text()
    (directory / "sepweight.json").write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(WeightsError, match="format version 9; this program reads versions 1 and 2"):
        read_manifest(directory)


def test_a_directory_may_hold_only_some_parts(tmp_path: Path, checkpoint: Path) -> None:
    directory = tmp_path / "out"
    convert(checkpoint, directory, FALCON)
    for name in ("begin", "mid.00000", "end"):
        (directory / f"{name}.safetensors").unlink()
    assert set(load(directory, "1-3")) == {"mid.00001", "mid.00002"}
    with pytest.raises(WeightsError, match=r"mid\.00000\.safetensors is missing"):
        load(directory, "0-2")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_conversion_holds_one_part_at_a_time(form: str, tmp_path: Path) -> None:
    """Peak memory <= twice the largest part + 100 MB beyond torch itself, with 1.1 GB in a single shard."""
    hidden = 1536
    shape = {"hidden_size": hidden, "num_hidden_layers": 12, "num_attention_heads": 12, "ffn_hidden_size": 4 * hidden}
    config = {**FalconConfig(**COMMON, **VARIANTS["7b"]).to_dict(), **shape}
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    files = FALCON.outline(config).files
    tensors = {
        FALCON.checkpoint_names(key, name)[0]: torch.zeros(size)
        for key, names in files.items()
        for name, size in names.items()
    }
    sizes = [sum(4 * math.prod(size) for size in names.values()) for names in files.values()]
    assert sum(sizes) > (1 << 30)
    if form == "bin":
        torch.save(tensors, source / "pytorch_model.bin")
    else:
        save_file(tensors, source / "model.safetensors", {"format": "pt"})
    del tensors
    torch_alone = peak_memory("import torch")  # 220 MB, or 510 MB where it is built for CUDA
    peak = peak_memory(
        "from pathlib import Path; from swarm.sepweight.convert import convert; from swarm.falcon.family import FALCON\n"
        f"convert(Path({str(source)!r}), Path({str(tmp_path / 'out')!r}), FALCON)"
    )
    assert peak <= torch_alone + 2 * max(sizes) + 100_000_000, f"{peak >> 20} MiB"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("config.json", b"\xff\xfe{", "config.json is not JSON"),
        ("tokenizer.json", b"{]", "tokenizer.json is no tokenizer"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json is no tokenizer"),
        ("model.safetensors", b"\x00" * 10, "model.safetensors"),
    ],
)
def test_a_damaged_input_is_one_line_with_the_next_step(name: str, data: bytes, words: str, checkpoint: Path) -> None:
    (checkpoint / name).write_bytes(data)
    done = run_command("weights", checkpoint.parent, ["convert", str(checkpoint), str(checkpoint.parent / "out")])
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_size", "lots", 'hidden_size is "lots"; it must be a whole number'),
        ("num_attention_heads", 0, "num_attention_heads is 0; it must be a positive number"),
        ("num_hidden_layers", 1.5, "num_hidden_layers is 1.5"),
        ("layer_norm_epsilon", "tiny", 'layer_norm_epsilon is "tiny"'),
        ("eos_token_id", ["end"], 'eos_token_id is "end"'),
        ("rope_parameters", 7, "rope_parameters is 7"),
        ("vocab_size", True, "vocab_size is true"),
    ],
)
def test_a_config_that_makes_no_sense_is_named(key: str, value: object, words: str, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(WeightsError) as caught:
        convert(checkpoint, checkpoint.parent / "out", FALCON)
    assert words in str(caught.value)


def test_a_checkpoint_without_a_tokenizer_is_converted_with_a_word(checkpoint: Path) -> None:
    done = run_command("weights", checkpoint.parent, ["convert", str(checkpoint), str(checkpoint.parent / "out")])
    assert done.returncode == 0
    assert "tells no tokenizer; swarm-chat cannot talk to the model without one" in done.stderr


def test_a_shard_that_is_cut_short_is_named(checkpoint: Path) -> None:
    shard = checkpoint / "model.safetensors"
    os.truncate(shard, shard.stat().st_size - 1000)
    done = run_command("weights", checkpoint.parent, ["convert", str(checkpoint), str(checkpoint.parent / "out")])
    assert done.returncode == 1
    assert "model.safetensors is cut short" in done.stderr
    assert "Traceback" not in done.stderr

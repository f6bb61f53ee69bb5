"""Models in smaller forms: what is lost, what stays exact, and what a user types."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch

from swarm.checkpoints import open_checkpoint
from swarm.decoder.device import Cpu
from swarm.decoder.forms import Forms
from swarm.decoder.schemes import quantisation_named
from swarm.errors import WeightsError
from swarm.falcon.family import FALCON
from swarm.families import family_named
from swarm.loading import init_part
from swarm.node.compute.memory import model_memory
from swarm.node.compute.models import read_weights
from swarm.parts import whole
from swarm.sepweight.convert import convert_source
from swarm.sepweight.manifest import FileEntry, Manifest, TensorEntry, read_manifest, write_manifest
from swarm.sepweight.requantise import quantise
from tests.checkpoints import save_tokenizer
from tests.layouts import maker_of
from tests.processes import Node, chat_json, run_command

LAYOUTS = ["7b", "40b", "rw", "llama, biases", "qwen3", "gemma2"]
FALCON_40B = """{"model_type": "falcon", "num_hidden_layers": 60, "hidden_size": 8192, "num_attention_heads": 128,
    "num_kv_heads": 8, "vocab_size": 65024, "new_decoder_architecture": true, "bias": false, "eos_token_id": 11}"""
IDS = torch.randint(2, 90, (60,), generator=torch.Generator().manual_seed(3))
DTYPES = [torch.float32, torch.bfloat16]
INT8 = quantisation_named("int8")


def make(layout: str, directory: Path, form: str, head: str | None = None) -> tuple[Path, Path]:
    """A model as it is, and in a smaller form."""
    plain, smaller = directory / "plain", directory / "smaller"
    maker_of(layout).save_sepweight(layout, plain)
    quantise(plain, smaller, family_named(read_manifest(plain).family, plain), quantisation_named(form, head))
    return plain, smaller


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["int8", "int4:32"])
def test_no_split_and_no_cut_changes_a_bit(form: str, layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    plain, smaller = make(layout, tmp_path, form)
    whole = init_part(smaller, "f", dtype=dtype)
    expected = whole(IDS)
    first, last = init_part(smaller, "b 0-3", dtype=dtype), init_part(smaller, "3-4 e", dtype=dtype)
    assert torch.equal(last(first(IDS)), expected)
    for lengths in ([1] * 60, [33, 27], [7, 1, 52]):
        cache = whole.new_cache()
        assert torch.equal(torch.cat([whole(piece, cache) for piece in IDS.split(lengths)]), expected)
    if dtype is torch.float32:
        exact = init_part(plain, "f")(IDS)
        assert (expected - exact).norm() / exact.norm() < (0.1 if form == "int8" else 0.7)
        assert not torch.equal(expected, exact)


@pytest.mark.parametrize("layout", ["40b", "rw", "qwen3"])
@pytest.mark.parametrize(("form", "head"), [("int8", None), ("int4:64", "int8"), ("int4:32", "plain")])
def test_stored_so_or_made_so_by_a_node_is_the_same_and_costs_what_is_said(
    form: str, head: str | None, layout: str, tmp_path: Path
) -> None:
    plain, smaller = make(layout, tmp_path, form, head)
    asked = quantisation_named(form, head)
    (stored,) = read_weights([smaller], None, Cpu()).values()
    (made,) = read_weights([plain], None, Cpu(), asked).values()
    (before,) = read_weights([plain], None, Cpu()).values()
    assert stored.model == made.model != before.model
    assert stored.model.id == before.model.id
    assert stored.model.variant == f"{form}{'' if head is None else f'/{head}'}-float32"
    assert stored.memory.weight_costs == made.memory.weight_costs
    assert stored.memory.weight_costs.layer < 0.4 * before.memory.weight_costs.layer
    assert torch.equal(init_part(smaller, "f")(IDS), init_part(plain, "f", quantisation=asked)(IDS))
    assert stored.manifest.aliases == (before.manifest.aliases if head == "plain" else {})


@pytest.mark.parametrize(("form", "most"), [("plain", 85e9), ("int8", 45e9), ("int4:64", 27e9), ("int4:128", 25e9)])
def test_what_a_model_takes_is_known_before_it_is_made(form: str, most: float) -> None:
    """Falcon-40B, of which only the shapes are here."""
    config = json.loads(FALCON_40B)
    outline = FALCON.outline(config)
    files = {
        key: FileEntry(1, "", {name: TensorEntry("bfloat16", tuple(size)) for name, size in sizes.items()})
        for key, sizes in outline.files.items()
    }
    manifest = Manifest(
        format=1,
        family="falcon",
        name="falcon-40b",
        model_id="4" * 32,
        dtype="bfloat16",
        layers=outline.layers,
        config=config,
        files=files,
        aliases={key: dict(names) for key, names in outline.aliases.items()},
    )
    forms = Forms(manifest, "here", quantisation_named(form))
    memory = model_memory(manifest, FALCON.read(config), forms, None, Cpu())
    bytes_told = memory.weights(whole(outline.layers))
    assert memory.head_making == 0
    assert 0.9 * most < bytes_told + outline.files["begin"]["word_embeddings.weight"][0] * 8192 * 2 < most


def test_a_checkpoint_is_converted_at_once(tmp_path: Path) -> None:
    """In the dtype asked for, matrices are quantised from that one: the same as in two steps."""
    maker_of("qwen3").save_checkpoint("qwen3", tmp_path / "checkpoint")
    with open_checkpoint(tmp_path / "checkpoint") as opened:
        plain = convert_source(opened.source, tmp_path / "plain", opened.family, dtype="bfloat16")
        asked = quantisation_named("int4:32", "int8")
        at_once = convert_source(
            opened.source, tmp_path / "smaller", opened.family, dtype="bfloat16", quantisation=asked, name="plain"
        )
        in_two = quantise(tmp_path / "plain", tmp_path / "again", opened.family, asked)
    assert at_once == in_two
    assert (at_once.model_id, at_once.format, at_once.scheme) == (plain.model_id, 2, "int4:32/int8")


def test_an_interrupted_quantisation_goes_on_and_another_form_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    maker_of("7b").save_sepweight("7b", plain)
    family = family_named("falcon", plain)

    def stop(done: int, total: int, key: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    for form, is_kept in (("int8", True), ("int4:32", False)):
        smaller = tmp_path / form
        with pytest.raises(KeyboardInterrupt):
            quantise(plain, smaller, family, INT8, progress=stop)
        written_at = (smaller / "mid.00000.safetensors").stat().st_mtime_ns
        asked = quantisation_named(form)
        manifest = quantise(plain, smaller, family, asked)
        assert ((smaller / "mid.00000.safetensors").stat().st_mtime_ns == written_at) == is_kept
        assert manifest.files == quantise(plain, tmp_path / f"{form}, whole", family, asked).files


def test_what_is_quantised_already_is_refused(tmp_path: Path) -> None:
    plain, smaller = make("7b", tmp_path, "int8")
    with pytest.raises(WeightsError, match=r"smaller is quantised already \(int8\)"):
        quantise(smaller, tmp_path / "again", family_named("falcon", plain), INT8)
    with pytest.raises(WeightsError, match=r"smaller is quantised already \(int8\); leave --quantize out"):
        read_weights([smaller], None, Cpu(), INT8)
    with pytest.raises(WeightsError, match="plain is what is to be quantised; choose another directory"):
        quantise(plain, plain, family_named("falcon", plain), INT8)


@pytest.mark.parametrize(
    ("told", "pattern"),
    [
        (
            "int4:64",
            r'says that its matrices are stored as "int4:64", but mid.00000/self_attention.query_key_value is int8',
        ),
        ("int8/plain", r'stored as "int8/plain", but end/lm_head is int8'),
        ("int3", r'stores its matrices as "int3"; this version reads plain, int8, int4:32'),
    ],
)
def test_a_manifest_that_tells_another_form_than_its_files_have_is_refused(
    told: str, pattern: str, tmp_path: Path
) -> None:
    _, smaller = make("40b", tmp_path, "int8")
    write_manifest(smaller, msgspec.structs.replace(read_manifest(smaller), scheme=told))
    with pytest.raises(WeightsError, match=pattern):
        read_weights([smaller], None, Cpu())


@pytest.mark.parametrize("change", [{"int8": (64, 64)}, {"scale": (3,)}])
def test_numbers_that_do_not_make_the_matrix_are_refused(change: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    _, smaller = make("40b", tmp_path, "int8")
    manifest = read_manifest(smaller)
    (ending, shape) = next(iter(change.items()))
    name = f"mlp.dense_h_to_4h.{ending}"
    file = manifest.files["mid.00002"]
    tensors = {**file.tensors, name: msgspec.structs.replace(file.tensors[name], shape=shape)}
    changed = {**manifest.files, "mid.00002": msgspec.structs.replace(file, tensors=tensors)}
    write_manifest(smaller, msgspec.structs.replace(manifest, files=changed))
    with pytest.raises(
        WeightsError, match=r"mid.00002/mlp.dense_h_to_4h \[256, 64\] as .*; this version reads plain, int8"
    ):
        read_weights([smaller], None, Cpu())


def test_what_a_user_should_know_is_said(tmp_path: Path) -> None:
    """Falcon's tiny widths do not divide by 128; int4 multiplies in bfloat16."""
    plain, smaller = make("7b", tmp_path, "int4:64")
    (one,) = read_weights([smaller], None, Cpu()).values()
    assert list(one.doubts) == ["int4 matrices multiply in bfloat16: in float32 each takes two or three products"]
    (one,) = read_weights([plain], "bfloat16", Cpu(), quantisation_named("int4:128")).values()
    width = one.decoder.hidden
    assert list(one.doubts) == [f"int4:64 is taken for matrices of {width} columns, which int4:128 does not divide"]


@pytest.mark.slow
def test_quantize_serve_and_ask(tmp_path: Path) -> None:
    """Three commands; the answer is that of the whole model in one process."""
    plain, smaller = tmp_path / "plain", tmp_path / "int8"
    maker_of("qwen3").save_checkpoint("qwen3", tmp_path / "checkpoint")
    save_tokenizer(tmp_path / "checkpoint")
    for arguments in (["convert", str(tmp_path / "checkpoint"), str(plain)], ["quantize", str(plain), str(smaller)]):
        done = run_command("weights", tmp_path, arguments)
        assert done.returncode == 0, done.stderr
    assert "int8: plain as int8-float32" in done.stdout
    common = ["--host", "127.0.0.1", "--no-mdns"]
    nodes: list[Node] = []
    try:
        for number, part in enumerate(["b 0-2", "2-4 e"]):
            told = ["--weights", str(smaller), "--part", part, "--port", str(18870 + 2 * number), *common]
            nodes.append(Node(tmp_path, [*told, *(["--peer", nodes[0].wait_ready()[4]] if nodes else [])]))
        reach = ["--peer", nodes[-1].wait_ready()[4], *common]
        asked = ["--raw", "--temperature", "0", "--max-tokens", "12", "--ignore-eos", *reach]
        answer = chat_json(tmp_path, [*asked, "abcdefgh"])
        status = json.loads(run_command("status", tmp_path, ["--json", *reach]).stdout)
    finally:
        for node in nodes:
            node.stop()
    assert {claim["variant"] for one in status["nodes"] for claim in one["claims"]} == {"int8-float32"}
    assert [hop["variant"] for hop in answer["route"]] == ["int8-float32"] * 2
    whole, ids = init_part(smaller, "f"), list(answer["prompt_token_ids"])
    for token in answer["token_ids"]:
        assert int(whole(ids)[-1].argmax()) == token
        ids.append(token)

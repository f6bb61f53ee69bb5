"""Models in int8: what is lost, what stays exact, and what a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from swarm.decoder.device import Cpu
from swarm.decoder.int8 import INT8
from swarm.decoder.int8_linear import CardInt8Linear, HostInt8Linear
from swarm.errors import WeightsError
from swarm.families import family_named
from swarm.loading import init_part
from swarm.node.compute.models import read_weights
from swarm.sepweight.dump import quantise
from swarm.sepweight.manifest import read_manifest
from tests.checkpoints import save_tokenizer
from tests.layouts import maker_of
from tests.processes import Node, chat_json, run_command

LAYOUTS = ["7b", "40b", "rw", "llama, biases", "qwen3", "gemma2"]
IDS = torch.randint(2, 90, (60,), generator=torch.Generator().manual_seed(3))
DTYPES = [torch.float32, torch.bfloat16]


def make(layout: str, directory: Path) -> tuple[Path, Path]:
    """A model as it is, and in int8."""
    plain, smaller = directory / "plain", directory / "int8"
    maker_of(layout).save_sepweight(layout, plain)
    quantise(plain, smaller, family_named(read_manifest(plain).family, plain), INT8)
    return plain, smaller


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2048, 2048), (576, 1536), (960, 576)], ids=str)
def test_a_product_is_near_and_a_row_the_same_in_any_company(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """shape: [out, in]. 1 to 300 rows."""
    torch.manual_seed(0)
    matrix = torch.randn(shape) * shape[1] ** -0.5
    linear = INT8.make(INT8.pack(matrix), None, dtype, Cpu())
    x = torch.randn(300, shape[1]).to(dtype)
    together = linear(x)
    expected = x.float() @ matrix.T
    assert (together - expected).norm() / expected.norm() < 2e-2
    for piece in (1, 2, 3, 4, 7, 16, 33, 64, 100):
        assert torch.equal(torch.cat([linear(some) for some in x.split(piece)]), together), piece


def test_numbers_are_off_by_half_a_step_at_most_and_a_row_of_zeros_stays_so() -> None:
    matrix = torch.randn(32, 64)
    matrix[5] = 0
    packed = INT8.pack(matrix)
    back = packed["int8"].float() * packed["scale"][:, None]
    assert ((back - matrix).abs() <= packed["scale"][:, None] * 0.5001).all()
    assert not back[5].any()


def test_what_is_not_finite_stays_so() -> None:
    linear = HostInt8Linear(*INT8.pack(torch.randn(32, 64)).values())
    x = torch.randn(3, 64)
    x[1, 7] = float("nan")
    x[2, 9] = float("inf")
    assert linear(x).isfinite().all(1).tolist() == [True, False, False]


def test_a_card_multiplies_with_the_same_numbers() -> None:
    matrix, scales = INT8.pack(torch.randn(32, 64)).values()
    x = torch.randn(5, 64)
    assert torch.allclose(CardInt8Linear(matrix, scales)(x), x @ (matrix * scales[:, None]).T, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_split_and_no_cut_changes_a_bit(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    plain, smaller = make(layout, tmp_path)
    whole = init_part(smaller, "f", dtype=dtype)
    expected = whole(IDS)
    first, last = init_part(smaller, "b 0-3", dtype=dtype), init_part(smaller, "3-4 e", dtype=dtype)
    assert torch.equal(last(first(IDS)), expected)
    for lengths in ([1] * 60, [33, 27], [7, 1, 52]):
        cache = whole.new_cache()
        assert torch.equal(torch.cat([whole(piece, cache) for piece in IDS.split(lengths)]), expected)
    if dtype is torch.float32:
        exact = init_part(plain, "f")(IDS)
        assert (expected - exact).norm() / exact.norm() < 0.1
        assert not torch.equal(expected, exact)


@pytest.mark.parametrize("layout", ["40b", "rw", "qwen3"])
def test_a_directory_says_what_it_is_and_a_node_what_it_costs(layout: str, tmp_path: Path) -> None:
    plain, smaller = make(layout, tmp_path)
    (here,), (there,) = (read_weights([one], None, Cpu()).values() for one in (smaller, plain))
    assert here.model.id == there.model.id
    assert here.model.variant == "int8-float32"
    assert here.memory.weight_costs.layer < 0.4 * there.memory.weight_costs.layer
    tensors = here.manifest.files["mid.00000"].tensors.values()
    numbers = sum(one.nbytes for one in tensors if one.dtype == "int8")
    assert numbers == sum(one.shape[0] * one.shape[1] for one in tensors if len(one.shape) == 2)


def test_what_is_quantised_already_or_would_overwrite_is_refused(tmp_path: Path) -> None:
    plain, smaller = make("7b", tmp_path)
    with pytest.raises(WeightsError, match=r"int8 is quantised already \(int8\)"):
        quantise(smaller, tmp_path / "again", family_named("falcon", plain), INT8)
    with pytest.raises(WeightsError, match="int8 is not empty"):
        quantise(plain, smaller, family_named("falcon", plain), INT8)


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

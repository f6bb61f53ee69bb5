"""Each member of the LLaMA family against transformers, and against itself however it is cut, split and accompanied."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart
from swarm.loading import init_part
from tests.llama.members import MEMBERS, save_sepweight

LENGTH = 200
CUTS = [[1] * LENGTH, [33] * 6 + [2], [64] * 3 + [8], [35, 67, 5, 31, 1, 61], [125, 6, 69]]


def make_ids(count: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 90, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=MEMBERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    directory = tmp_path_factory.mktemp("weights") / "member"
    return directory, save_sepweight(request.param, directory)


@pytest.fixture(scope="module")
def weights(pair: tuple[Path, PreTrainedModel]) -> Path:
    return pair[0]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def full(request: pytest.FixtureRequest, weights: Path) -> DecoderPart:
    return init_part(weights, "f", dtype=request.param)


def test_logits_and_greedy_answers_are_those_of_transformers(pair: tuple[Path, PreTrainedModel]) -> None:
    directory, model = pair
    part = init_part(directory, "f")
    ids = make_ids(40)
    with torch.inference_mode():
        expected = model(ids[None]).logits[0]
        assert torch.allclose(part(ids), expected, atol=1e-4, rtol=0)
        said = model.generate(ids[None], max_new_tokens=24, do_sample=False, eos_token_id=None)[0, 40:].tolist()
    cache = part.new_cache(64)
    new, answer = ids, list[int]()
    for _ in range(24):
        new = part(new, cache)[-1:].argmax(-1)
        answer += new.tolist()
    assert answer == said
    assert len(set(said)) > 1, "a constant answer would prove little"


def test_bfloat16_is_as_near_to_float32_as_that_of_transformers(pair: tuple[Path, PreTrainedModel]) -> None:
    """Which rounds at the same places, in the order of its own kernels."""
    directory, model = pair
    ids = make_ids(40)
    rounded = copy.deepcopy(model)
    for parameter in rounded.parameters():  # not its tables of positions, which stay in float32
        parameter.data = parameter.data.bfloat16()
    with torch.inference_mode():
        exact = model(ids[None]).logits[0]
        theirs = rounded(ids[None]).logits[0].float() - exact
        ours = init_part(directory, "f", dtype=torch.bfloat16)(ids) - exact
    assert ours.square().mean() < 1.5 * theirs.square().mean()
    assert ours.abs().max() < 2 * theirs.abs().max()


def test_any_cut_gives_the_bits_of_one_pass(full: DecoderPart) -> None:
    ids = make_ids(LENGTH)
    expected = full(ids)
    for cuts in CUTS:
        assert sum(cuts) == LENGTH
        cache = full.new_cache()
        assert torch.equal(torch.cat([full(piece, cache) for piece in ids.split(cuts)]), expected), cuts


def test_a_long_sequence_has_the_same_bits_in_chunks_and_token_by_token(full: DecoderPart) -> None:
    ids = make_ids(700)
    cache = full.new_cache()
    pieces = [full(piece, cache) for piece in ids.split([512, 100, *[1] * 88])]
    assert torch.equal(torch.cat(pieces), full(ids))


def test_batch_mates_change_no_bit(full: DecoderPart) -> None:
    sessions = [make_ids(length, seed) for seed, length in enumerate([13, 4, 1, 130, 33])]
    spans = [Span(full.new_cache(), len(ids)) for ids in sessions]
    assert full.head is not None
    together = full.head(full.run_layers(full.enter(torch.cat(sessions)), spans))
    for ids, actual in zip(sessions, together.split([len(ids) for ids in sessions]), strict=True):
        assert torch.equal(actual, full(ids))
    further = full.head(full.run_layers(full.enter(torch.tensor([33] * 5)), [Span(span.cache, 1) for span in spans]))
    for row, ids in zip(further, sessions, strict=True):
        assert torch.equal(row, full(torch.cat((ids, torch.tensor([33]))))[-1])


def test_split_at_every_layer_boundary_equals_whole(weights: Path, full: DecoderPart) -> None:
    ids, layers = make_ids(LENGTH), full.decoder.layers
    for boundary in range(layers + 1):
        first = init_part(weights, f"b 0-{boundary}" if boundary else "b", dtype=full.dtype)
        second = init_part(weights, f"{boundary}-{layers} e" if boundary < layers else "e", dtype=full.dtype)
        assert torch.equal(second(first(ids)), full(ids))

"""Parts of every Falcon variant against transformers, and against themselves however they are split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import FalconForCausalLM

from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart
from swarm.falcon import init_part
from swarm.falcon.family import read_falcon_config
from tests.checkpoints import VARIANTS, save_sepweight

PROMPT = [5, 17, 80, 3, 3, 42, 61, 9, 28, 90, 11, 54, 2]


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FalconForCausalLM]:
    directory = tmp_path_factory.mktemp("weights") / request.param
    return directory, save_sepweight(request.param, directory)


@pytest.fixture(scope="module")
def weights(pair: tuple[Path, FalconForCausalLM]) -> Path:
    return pair[0]


@pytest.fixture(scope="module")
def full(weights: Path) -> DecoderPart:
    return init_part(weights, "f")


def greedy(part: DecoderPart, prompt: list[int], count: int) -> list[int]:
    cache = part.new_cache(len(prompt) + count)
    ids = list(prompt)
    new = ids
    for _ in range(count):
        logits = part(torch.tensor(new), cache)
        new = [int(logits[-1].argmax())]
        ids += new
    return ids


def test_float32_logits_agree_with_transformers(pair: tuple[Path, FalconForCausalLM], full: DecoderPart) -> None:
    expected = pair[1](torch.tensor([PROMPT])).logits[0]
    assert torch.allclose(full(torch.tensor(PROMPT)), expected, atol=1e-4, rtol=0)


def test_greedy_continuations_are_those_of_transformers(
    pair: tuple[Path, FalconForCausalLM], full: DecoderPart
) -> None:
    expected = pair[1].generate(torch.tensor([PROMPT]), max_new_tokens=32, do_sample=False, eos_token_id=None)
    assert greedy(full, PROMPT, 32) == expected[0].tolist()
    assert len(set(expected[0, len(PROMPT) :].tolist())) > 1, "a constant answer would prove little"


def test_split_at_every_layer_boundary_equals_whole(weights: Path, full: DecoderPart) -> None:
    ids = torch.tensor(PROMPT)
    expected = full(ids)
    for boundary in range(full.decoder.layers + 1):
        first = init_part(weights, f"b 0-{boundary}" if boundary else "b")
        second = init_part(weights, f"{boundary}-{full.decoder.layers} e" if boundary < full.decoder.layers else "e")
        assert torch.equal(second(first(ids)), expected)


def test_one_token_at_a_time_is_one_pass_within_rounding(full: DecoderPart) -> None:
    expected = full(torch.tensor(PROMPT))
    cache = full.new_cache()
    steps = torch.cat([full(torch.tensor([token]), cache) for token in PROMPT])
    assert torch.allclose(steps, expected, atol=1e-5, rtol=0)


def test_ragged_batches_equal_each_session_alone(full: DecoderPart) -> None:
    sessions = [PROMPT, PROMPT[:4], [7], PROMPT[2:9]]
    alone = [full(torch.tensor(ids), full.new_cache()) for ids in sessions]
    spans = [Span(full.new_cache(), len(ids)) for ids in sessions]
    hidden = full.run_layers(full.enter(torch.tensor([token for ids in sessions for token in ids])), spans)
    assert full.head is not None
    together = full.head(hidden).split([len(ids) for ids in sessions])
    for expected, actual in zip(alone, together, strict=True):
        assert torch.equal(actual, expected)
    # and again one token further, where every session is a single row of a batch
    alone_next = []
    for ids in sessions:
        cache = full.new_cache()
        full(torch.tensor(ids), cache)
        alone_next.append(full(torch.tensor([33]), cache))
    spans = [Span(span.cache, 1) for span in spans]
    together = full.head(full.run_layers(full.enter(torch.tensor([33] * len(sessions))), spans))
    assert torch.equal(together, torch.cat(alone_next))


def test_cache_bytes_are_what_the_config_predicts(full: DecoderPart) -> None:
    for positions, held in ((40, 40), (100, 128), (200, 256), (1024, 1024), (1100, 1152)):
        cache = full.new_cache(reserve=positions)
        full(torch.randint(0, 90, (positions,)), cache)
        assert cache.nbytes == held * full.decoder.layers * full.decoder.cache_bytes(4)


def test_a_truncated_cache_goes_on_as_if_the_rest_had_never_been(full: DecoderPart) -> None:
    cache = full.new_cache()
    full(torch.tensor(PROMPT), cache)
    cache.truncate(5)
    fresh = full.new_cache()
    full(torch.tensor(PROMPT[:5]), fresh)
    follow = torch.tensor([1, 2, 3])
    assert torch.allclose(full(follow, cache), full(follow, fresh), atol=1e-5, rtol=0)


def test_bfloat16_knows_positions_past_a_thousand(tmp_path: Path) -> None:
    reference = save_sepweight("7b", tmp_path / "w")
    part = init_part(tmp_path / "w", "f", dtype=torch.bfloat16)
    ids = torch.randint(0, 90, (1200,), generator=torch.Generator().manual_seed(3))
    exact = reference(ids[None]).logits[0, 1001:]
    ours = part(ids)[1001:]
    theirs = reference.to(torch.bfloat16)(ids[None]).logits[0, 1001:].float()
    assert (ours - exact).abs().mean() <= 1.2 * (theirs - exact).abs().mean()


def test_legacy_spellings_read_as_the_current_ones() -> None:
    legacy = {
        "model_type": "RefinedWeb",
        "n_layer": 60,
        "n_head": 128,
        "n_head_kv": 8,
        "hidden_size": 8192,
        "vocab_size": 65024,
    }
    config = read_falcon_config(legacy | {"parallel_attn": True, "alibi": False})
    assert ("before_mlp" in config.slots, config.kv_heads, config.layers) == (True, 8, 60)
    assert config.cache_bytes(2) * config.layers == 122_880
    small = {"model_type": "RefinedWebModel", "n_layer": 32, "n_head": 71, "hidden_size": 4544, "vocab_size": 65024}
    config = read_falcon_config(small | {"multi_query": True, "parallel_attn": True})
    assert ("before_mlp" in config.slots, config.kv_heads) == (False, 1)
    assert config.cache_bytes(2) * config.layers == 8_192

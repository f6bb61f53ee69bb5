"""Sampling: the warpers are those of transformers, the draws are those of the softmax, and nothing else counts."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from swarm.messages.sampling import Sampling
from swarm.sampling import choose_best, gumbel, keep_top_k, keep_top_p, keep_typical, penalise, sample, score

LOGITS = torch.randn(500, generator=torch.Generator().manual_seed(1)) * 3
IDS = [3, 7, 7, 400]


def test_temperature_zero_is_greedy() -> None:
    assert sample(LOGITS, Sampling(), 10) == int(LOGITS.argmax())


@pytest.mark.parametrize("temperature", [1e-300, 1e-12, 1e-6, 1e-5, 1e-3])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    for keep in ({}, {"top_k": 5}, {"top_p": 0.5}, {"typical_p": 0.5}):
        sampling = Sampling(temperature=temperature, seed=3, **keep)
        chosen = sample(LOGITS, sampling, 10)
        assert 0 <= chosen < len(LOGITS)
        if "typical_p" not in keep:
            assert chosen == int(LOGITS.argmax())


def test_filters_are_those_of_transformers() -> None:
    ids = torch.tensor([IDS])
    row = LOGITS[None]
    assert torch.equal(penalise(LOGITS, IDS, 1.3), RepetitionPenaltyLogitsProcessor(1.3)(ids, row)[0])
    assert torch.equal(keep_top_k(LOGITS, 20), TopKLogitsWarper(20)(ids, row)[0])
    assert torch.equal(keep_top_p(LOGITS, 0.8), TopPLogitsWarper(0.8)(ids, row)[0])
    assert torch.equal(keep_typical(LOGITS, 0.7), TypicalLogitsWarper(0.7)(ids, row)[0])


def test_a_draw_depends_on_seed_and_position_and_nothing_else() -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    draws = [sample(LOGITS, sampling, position) for position in range(200)]
    assert draws == [sample(LOGITS, sampling, position) for position in range(200)]
    assert draws != [sample(LOGITS, Sampling(temperature=1.0, seed=6), position) for position in range(200)]
    noise = 1e-6 * torch.randn(500, generator=torch.Generator().manual_seed(2))
    assert draws == [sample(LOGITS + noise, sampling, position) for position in range(200)]


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    counts = torch.zeros(4)
    for position in range(4000):
        counts[sample(logits, Sampling(temperature=1.0, seed=1), position)] += 1
    assert torch.allclose(counts / 4000, logits.softmax(-1), atol=0.03)


def test_gumbel_noise_has_its_mean_and_deviation() -> None:
    noise = gumbel(3, 17, torch.arange(100_000))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.2825, abs=0.02)


def test_a_kept_token_is_drawn() -> None:
    sampling = Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=1)
    top = set(LOGITS.topk(5).indices.tolist())
    assert {sample(LOGITS, sampling, position) for position in range(100)} <= top


def test_score_adds_up_log_probabilities_and_the_best_continuation_wins() -> None:
    table = torch.randn(10, 10, generator=torch.Generator().manual_seed(4))

    def model(ids: torch.Tensor) -> torch.Tensor:
        return table[ids]

    logs = table.log_softmax(-1)
    scores = score(model, [1, 2], [[3, 4], [5]])
    assert scores == pytest.approx([float(logs[2, 3] + logs[3, 4]), float(logs[2, 5])])
    assert choose_best(model, [1, 2], [[3, 4], [5]]) == scores.index(max(scores))

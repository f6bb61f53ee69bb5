"""Sampling: the warpers are those of transformers, the draws are those of the softmax, and nothing else counts."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from swarm.messages.sampling import Sampling
from swarm.sampling import (
    Draw,
    Draws,
    choose_best,
    gumbel,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalise,
    sample,
    score,
)

LOGITS = torch.randn(500, generator=torch.Generator().manual_seed(1)) * 3
IDS = [3, 7, 7, 400]


def column(value: float) -> torch.Tensor:
    """One row's setting."""
    return torch.tensor([[value]])


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
    seen = torch.tensor([[0, 0, 0], sorted(set(IDS))])
    assert torch.equal(penalise(row, seen, column(1.3)), RepetitionPenaltyLogitsProcessor(1.3)(ids, row))
    assert torch.equal(keep_top_k(row, column(20), 20), TopKLogitsWarper(20)(ids, row))
    assert torch.equal(keep_top_p(row, column(1 - 0.8)), TopPLogitsWarper(0.8)(ids, row))
    assert torch.equal(keep_typical(row, column(0.7)), TypicalLogitsWarper(0.7)(ids, row))


settings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 7, 499, 5000]),
    top_p=st.sampled_from([1e-3, 0.5, 1.0]),
    typical_p=st.sampled_from([1e-3, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
    seed=st.integers(0, 1 << 61),
)
wanted = st.builds(Draw, settings, st.integers(0, 9000), st.lists(st.integers(0, 499), max_size=5))


@hypothesis.given(st.lists(st.tuples(wanted, st.booleans()), min_size=1, max_size=6), st.integers(0, 99))
def test_a_row_is_drawn_as_if_it_were_alone_and_wherever_it_lies(rows: list[tuple[Draw, bool]], seed: int) -> None:
    """Ties are there on purpose: logits come from bfloat16."""
    draws = [draw for draw, _ in rows]
    logits = torch.randn(len(rows), 500, generator=torch.Generator().manual_seed(seed)) * 3
    for row, (_, is_coarse) in zip(logits, rows, strict=True):
        row.copy_(row.round() if is_coarse else row.bfloat16())
    alone = [sample(row, *draw) for row, draw in zip(logits, draws, strict=True)]
    together = Draws(draws)
    for can_count in (True, False):
        ids = together.choose(logits[together.order], together.tensors, can_count=can_count)
        assert [token for _, token in sorted(zip(together.order, ids.tolist(), strict=True))] == alone


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
    noise = gumbel(torch.tensor(3), torch.tensor(17), torch.arange(100_000))
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

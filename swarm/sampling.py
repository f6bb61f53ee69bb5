"""Chooses next tokens from logits, by counter: a draw depends on (seed, position, token id) and nothing else.

argmax(logit / T + gumbel(seed, position, id)) over the kept candidates draws from the softmax exactly, and noise of 1e-6
in the logits practically never changes the choice, so a replay or another chain gives the same token. An inverse CDF
would flip tokens at every rounding of the cumulative sum.

Filters follow transformers' warpers, in this order: repetition penalty, temperature, top-k, top-p, typical-p. All rows are
computed at once on the device that has them, and what is drawn for one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from swarm.messages.sampling import Sampling

GREEDY_TEMPERATURE = 1e-5  # below it logits divided by it overflow, and nothing but the likeliest token is ever drawn

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the increment of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class Draw(NamedTuple):
    """A token to be chosen. ids: every one before `position`, read only for the repetition penalty."""

    sampling: Sampling
    position: int
    ids: Sequence[int] = ()


class _Filters(NamedTuple):
    """What is done to a row's scores."""

    is_drawn: bool  # else the likeliest token is taken
    has_penalty: bool
    has_top_k: bool = False
    has_top_p: bool = False
    has_typical: bool = False


def _filters_of(draw: Draw) -> _Filters:
    sampling = draw.sampling
    has_penalty = sampling.repetition_penalty != 1.0 and len(draw.ids) > 0
    if sampling.temperature < GREEDY_TEMPERATURE:
        return _Filters(False, has_penalty)
    return _Filters(True, has_penalty, sampling.top_k > 0, sampling.top_p < 1, sampling.typical_p < 1)


class _Run(NamedTuple):
    """Neighbouring rows with the same filters. settings, seen: which tensors are theirs, None for those not needed."""

    filters: _Filters
    start: int
    stop: int
    most_k: int
    settings: int | None
    seen: int | None


class Draws:
    """Tokens to be drawn from the rows of one tensor of logits.

    order: which draw each row is for; those with the same filters lie together. tensors: settings that have to be on the
    logits' device; none for greedy choices.
    """

    def __init__(self, draws: Sequence[Draw]) -> None:
        self.order = sorted(range(len(draws)), key=lambda index: _filters_of(draws[index]))
        self.tensors: list[Tensor] = []
        self._runs: list[_Run] = []
        ordered = [draws[index] for index in self.order]
        start = 0
        for filters, group in groupby(ordered, key=_filters_of):
            rows = list(group)
            settings = self._add(*_settings_of(rows)) if filters.is_drawn or filters.has_penalty else None
            seen = self._add(_seen_by(rows)) if filters.has_penalty else None
            most_k = max(draw.sampling.top_k for draw in rows)
            self._runs.append(_Run(filters, start, start + len(rows), most_k, settings, seen))
            start += len(rows)

    def _add(self, *tensors: Tensor) -> int:
        self.tensors += tensors
        return len(self.tensors) - len(tensors)

    def choose(self, logits: Tensor, placed: Sequence[Tensor], *, can_count: bool) -> Tensor:
        """Token ids, int64 [rows], on the device of the logits.

        logits: float32 [rows, vocabulary], rows in `order`; placed: `tensors` on their device. can_count: a number on the
        device is known without waiting for it; then noise is made only for what is kept.
        """
        chosen = [self._choose(logits[run.start : run.stop], run, placed, can_count=can_count) for run in self._runs]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen)

    def _choose(self, scores: Tensor, run: _Run, placed: Sequence[Tensor], *, can_count: bool) -> Tensor:
        filters = run.filters
        if run.settings is None:
            return scores.argmax(-1)
        seeds, positions, top_k = placed[run.settings].split(1, 1)
        temperature, cut, typical, penalty = placed[run.settings + 1].split(1, 1)
        if run.seen is not None:
            scores = penalise(scores, placed[run.seen], penalty)
        if not filters.is_drawn:
            return scores.argmax(-1)
        scores = scores / temperature
        if filters.has_top_k:
            scores = keep_top_k(scores, top_k, run.most_k)
        if filters.has_top_p:
            scores = keep_top_p(scores, cut)
        if filters.has_typical:
            scores = keep_typical(scores, typical)
        return _draw_kept(scores, seeds, positions) if can_count else _draw_all(scores, seeds, positions)


def sample(logits: Tensor, sampling: Sampling, position: int, ids: Sequence[int] = ()) -> int:
    """The token id for `position`.

    logits: float32 [vocabulary]; ids: every token id before `position`, read only for the repetition penalty.
    """
    draws = Draws([Draw(sampling, position, ids)])
    return int(draws.choose(logits[None], [one.to(logits.device) for one in draws.tensors], can_count=True))


def _settings_of(draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
    """int64 [rows, 3]: seed, position, top-k; float32 [rows, 4]: temperature, 1 - top-p, typical-p, penalty."""
    settings = [draw.sampling for draw in draws]
    whole = [[one.seed, draw.position, one.top_k] for draw, one in zip(draws, settings, strict=True)]
    real = [[one.temperature, 1 - one.top_p, one.typical_p, one.repetition_penalty] for one in settings]
    return torch.tensor(whole), torch.tensor(real, dtype=torch.float32)


def _seen_by(draws: Sequence[Draw]) -> Tensor:
    """int64 [2, pairs]: row and token id, each pair once."""
    pairs = [(row, token) for row, draw in enumerate(draws) for token in sorted(set(draw.ids))]
    return torch.tensor(pairs).T.contiguous()


def penalise(scores: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive and multiply negative scores of ids already there (Keskar et al. 2019).

    scores: [rows, vocabulary]; seen: [2, pairs], row and id, each pair once; penalty: [rows, 1].
    """
    rows, ids = seen
    flat = rows * scores.shape[1] + ids
    found, factor = scores.reshape(-1).index_select(0, flat), penalty.reshape(-1).index_select(0, rows)
    penalised = torch.where(found < 0, found * factor, found / factor)
    return scores.reshape(-1).scatter(0, flat, penalised).view_as(scores)


def keep_top_k(scores: Tensor, k: Tensor, most: int) -> Tensor:
    """Drop all but the k highest scores of each row; k: [rows, 1], at least one and at most `most`."""
    highest = scores.topk(min(most, scores.shape[1])).values
    lowest_kept = highest.gather(1, k.clamp(max=scores.shape[1]) - 1)
    return scores.masked_fill(scores < lowest_kept, float("-inf"))


def keep_top_p(scores: Tensor, cut: Tensor) -> Tensor:
    """Keep each row's smallest set of tokens whose probabilities reach p (Holtzman et al. 2019); cut: 1 - p, [rows, 1]."""
    ascending, order = scores.sort(-1)
    dropped = ascending.softmax(-1).cumsum(-1) <= cut
    dropped[:, -1] = False
    return scores.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), float("-inf"))


def keep_typical(scores: Tensor, mass: Tensor) -> Tensor:
    """Keep the tokens whose surprise is closest to the row's entropy, up to `mass`, [rows, 1] (Meister et al. 2022)."""
    logs = scores.log_softmax(-1)
    # A running sum: unlike sum's, its rounding does not depend on how many rows and threads there are.
    entropy = -(logs.exp() * logs).nan_to_num(0.0).double().cumsum(-1)[:, -1:].float()
    distance, order = (-logs - entropy).abs().sort(-1)
    cumulative = scores.gather(-1, order).softmax(-1).cumsum(-1)
    last = (cumulative < mass).sum(-1, keepdim=True).clamp(max=scores.shape[1] - 1)
    dropped = distance > distance.gather(-1, last)
    return scores.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), float("-inf"))


def _draw_kept(scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """The winners' ids, [rows]; seeds, positions: [rows, 1]."""
    rows, ids = torch.isfinite(scores).nonzero(as_tuple=True)
    noisy = torch.full_like(scores, float("-inf"), dtype=torch.float64)
    noisy[rows, ids] = scores[rows, ids].double() + gumbel(seeds[rows, 0], positions[rows, 0], ids)
    return noisy.argmax(-1)


def _draw_all(scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """The same without knowing how many are kept."""
    noise = gumbel(seeds, positions, torch.arange(scores.shape[1], device=scores.device))
    return (scores.double() + noise).argmax(-1)


def gumbel(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise, float64, for each of the int64 token ids: -log(-log(u)), u from splitmix64 of the counter.

    seeds, positions: int64, of one shape with tokens or broadcast to it.
    """
    state = _mix(_mix(seeds + _GOLDEN) + positions * 2 + 1)
    bits = _mix(state + (tokens + 1) * _GOLDEN)
    uniform = (_shift(bits, 11).double() + 0.5) * 2.0**-53
    return -(-uniform.log()).log()


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 values taken as unsigned (Steele, Lea, Flood 2014)."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, count: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> count) & ((1 << (64 - count)) - 1)


def score(
    model: Callable[[Tensor], Tensor], prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """The log-probability of each continuation of a prompt, under temperature 1.

    model: ids [tokens] → logits [tokens, vocabulary], a whole model. The prompt must not be empty.
    """
    found: list[float] = []
    for continuation in continuations:
        ids = torch.tensor([*prompt, *continuation])
        logs = model(ids).float().log_softmax(-1)[len(prompt) - 1 : -1]
        found.append(float(logs.gather(1, ids[len(prompt) :, None]).sum()))
    return found


def choose_best(
    model: Callable[[Tensor], Tensor], prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> int:
    """The index of the most likely continuation: the answer to a closed question."""
    scores = score(model, prompt, continuations)
    return scores.index(max(scores))

"""Chooses the next token from logits, by counter: the draw depends on (seed, position, token id) and nothing else.

argmax(logit / T + gumbel(seed, position, id)) over the kept candidates draws from the softmax exactly, and noise of 1e-6
in the logits practically never changes the choice, so a replay or another chain gives the same token. An inverse CDF
would flip tokens at every rounding of the cumulative sum.

Filters follow transformers' warpers, in this order: repetition penalty, temperature, top-k, top-p, typical-p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from swarm.messages.sampling import Sampling

GREEDY_TEMPERATURE = 1e-5  # below it logits divided by it overflow, and nothing but the likeliest token is ever drawn

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the increment of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def sample(logits: Tensor, sampling: Sampling, position: int, ids: Sequence[int] = ()) -> int:
    """The token id for `position`.

    logits: float32 [vocabulary]; ids: every token id before `position`, read only for the repetition penalty.
    """
    scores = penalise(logits, ids, sampling.repetition_penalty)
    if sampling.temperature < GREEDY_TEMPERATURE:
        return int(scores.argmax())
    scores = keep_typical(
        keep_top_p(keep_top_k(scores / sampling.temperature, sampling.top_k), sampling.top_p), sampling.typical_p
    )
    kept = torch.isfinite(scores).nonzero().squeeze(1)
    noisy = scores[kept].double() + gumbel(sampling.seed, position, kept)
    return int(kept[noisy.argmax()])


def gumbel(seed: int, position: int, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise, float64, for each of the int64 token ids: -log(-log(u)), u from splitmix64 of the counter."""
    state = _mix(_mix(torch.tensor([seed], device=tokens.device) + _GOLDEN) + position * 2 + 1)
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


def penalise(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Divide positive and multiply negative scores of ids already there (Keskar et al. 2019)."""
    if penalty == 1.0 or not ids:
        return logits
    seen = torch.tensor(sorted(set(ids)), device=logits.device)
    scores = logits.clone()
    found = scores[seen]
    scores[seen] = torch.where(found < 0, found * penalty, found / penalty)
    return scores


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Drop all but the k highest scores; 0 keeps all."""
    if k == 0 or k >= scores.numel():
        return scores
    return scores.masked_fill(scores < scores.topk(k).values[-1], float("-inf"))


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Keep the smallest set of tokens whose probabilities reach p (Holtzman et al. 2019)."""
    if p >= 1.0:
        return scores
    ascending, order = scores.sort()
    dropped = ascending.softmax(-1).cumsum(-1) <= 1 - p
    dropped[-1] = False
    return scores.masked_fill(torch.zeros_like(dropped).scatter(0, order, dropped), float("-inf"))


def keep_typical(scores: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprise is closest to the entropy, up to `mass` (Meister et al. 2022)."""
    if mass >= 1.0:
        return scores
    logs = scores.log_softmax(-1)
    entropy = -(logs.exp() * logs).nansum()
    distance, order = (-logs - entropy).abs().sort()
    cumulative = scores[order].softmax(-1).cumsum(-1)
    last = min(int((cumulative < mass).sum()), scores.numel() - 1)
    dropped = distance > distance[last]
    return scores.masked_fill(torch.zeros_like(dropped).scatter(0, order, dropped), float("-inf"))


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

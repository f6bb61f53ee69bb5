"""The fidelity measurement: what nodes say, and how likely they find a text, beside transformers on the same model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swarm.bench.checkpoint import read_decoder, split_evenly
from swarm.bench.rival import load_model
from swarm.bench.swarm_side import SwarmSide
from swarm.decoder.loading import load_tokenizer
from swarm.loading import init_part

PORT = 19700
SPREAD = 997  # tokens of the text from the beginning of one prompt to that of the next


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityPlan:
    """What to run.

    prompts, prompt_tokens, new_tokens: greedy answers. text_tokens: of a text, in windows that know nothing of each other.
    """

    nodes: int = 3
    prompts: int = 40
    prompt_tokens: int = 32
    new_tokens: int = 128
    text_tokens: int = 20_000
    window: int = 1024


def read_text() -> str:
    """English that is on every machine: the help that Python has for its own topics."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def encode_text(weights: Path) -> list[int]:
    """The text in a model's tokens."""
    return load_tokenizer(weights).encode(read_text(), add_special_tokens=False).ids


def cut_text(plan: FidelityPlan, ids: Sequence[int]) -> list[list[int]]:
    """As many of a text's ids as are asked for, in windows."""
    wanted = list(ids[: plan.text_tokens])
    return [wanted[start : start + plan.window] for start in range(0, len(wanted), plan.window)]


def run(
    plan: FidelityPlan, weights: Path, reference: Path, folder: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """Every figure by name. reference: a directory of the same model, for transformers. Raises WeightsError."""
    ids = encode_text(weights)
    windows = cut_text(plan, ids)
    prompts = [ids[SPREAD * number :][: plan.prompt_tokens] for number in range(plan.prompts)]
    decoder = read_decoder(weights)
    with SwarmSide(weights, split_evenly(decoder, plan.nodes), folder, PORT) as side:
        say(f"{plan.prompts} answers of {plan.new_tokens} tokens")
        answers = [[token for token, _ in side.answer(prompt, plan.new_tokens)] for prompt in prompts]
        say(f"{plan.text_tokens} tokens of text")
        told = [[score for _, score in side.answer(window[:1], 1, given=window[1:])] for window in windows]
    say("transformers")
    oracle = load_model(reference)
    part = init_part(weights, "f")
    figures = _compare_answers(oracle, prompts, answers)
    losses = [-score for scores in told for score in scores]
    theirs: list[float] = []
    divergence = 0.0
    with torch.inference_mode():
        for window in windows:
            expected = log_probabilities(oracle, window)
            theirs += (-expected[:-1].gather(1, torch.tensor(window[1:])[:, None])).flatten().tolist()
            ours = part(torch.tensor(window)).log_softmax(-1)
            divergence += float((expected.exp() * (expected - ours)).sum())
    ours_mean, theirs_mean = (math.fsum(values) / len(values) for values in (losses, theirs))
    return figures | {
        "perplexity": math.exp(ours_mean),
        "rival_perplexity": math.exp(theirs_mean),
        "perplexity_difference": math.exp(ours_mean - theirs_mean) - 1,
        "divergence_a_token": divergence / plan.text_tokens,
    }


def log_probabilities(oracle: Any, ids: Sequence[int]) -> Tensor:
    """[tokens, vocabulary], float32."""
    return oracle(torch.tensor([list(ids)], device=oracle.device)).logits[0].float().log_softmax(-1).cpu()


def _compare_answers(
    oracle: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> dict[str, float]:
    """How many tokens are the likeliest ones of transformers after the same ids, and how near the others are to those."""
    gaps: list[float] = []
    count = 0
    with torch.inference_mode():
        for prompt, answer in zip(prompts, answers, strict=True):
            logs = log_probabilities(oracle, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
            count += len(answer)
            gaps += _gaps(logs, answer)
    return {
        "greedy_tokens": count,
        "greedy_equal_share": 1 - len(gaps) / count,
        "greedy_widest_gap": max(gaps, default=0.0),
    }


def _gaps(logs: Tensor, answer: Sequence[int]) -> Iterator[float]:
    """By how much the likeliest token leads where another was said."""
    for row, token in zip(logs, answer, strict=True):
        if int(row.argmax()) != token:
            yield float(row.max() - row[token])

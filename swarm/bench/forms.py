"""What smaller weights cost in quality: a text's perplexity in each form, beside the model as it is, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swarm.bench.checkpoint import read_decoder
from swarm.bench.fidelity import FidelityPlan, cut_text, encode_text, log_probabilities
from swarm.bench.rival import load_model
from swarm.decoder.scheme import Scheme
from swarm.decoder.schemes import quantisation_in
from swarm.families import family_named
from swarm.loading import init_part
from swarm.parts import whole
from swarm.sepweight.manifest import file_keys
from swarm.sepweight.scheme import Quantisation, is_matrix
from swarm.sepweight.store import Store

Logits = Callable[[Sequence[int]], Tensor]  # ids → log-probabilities [tokens, vocabulary], float32


def run(
    plan: FidelityPlan,
    weights: Path,
    reference: Path,
    forms: Sequence[str],
    others: Sequence[Path],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Every figure by name. reference: the same model, for transformers. others: directories of it in forms of their own.

    Raises WeightsError, RequestError for a form that there is not.
    """
    windows = cut_text(plan, encode_text(weights))
    oracle = load_model(reference)
    expected: list[_Expected] = []
    loss = 0.0
    with torch.inference_mode():
        for window in windows:
            logs = log_probabilities(oracle, window)
            loss += _loss(window, logs)
            expected.append(_Expected(logs.half(), logs.argmax(1)))
    figures = {"perplexity": math.exp(loss / _count(windows))}
    for name, read in _sides(weights, oracle, forms, others):
        say(name)
        figures |= {f"{name}_{what}": value for what, value in _compare(windows, expected, loss, read).items()}
    for form in forms:
        given, own = figures[f"{form}_perplexity_change"], figures[f"{form}_numbers_in_transformers_perplexity_change"]
        figures[f"{form}_perplexity_beside_its_numbers_in_transformers"] = (1 + given) / (1 + own) - 1
    return figures


def _sides(weights: Path, oracle: Any, forms: Sequence[str], others: Sequence[Path]) -> Iterator[tuple[str, Logits]]:
    """By name, whoever finds the text likely in one way or another; the oracle is changed on the way."""
    yield "as_stored", _of_part(init_part(weights, "f"))
    for other in others:
        yield other.name, _of_part(init_part(other, "f"))
    for form in forms:
        quantisation = quantisation_in(form)
        yield form, _of_part(init_part(weights, "f", quantisation=quantisation))
        put_numbers(oracle, weights, quantisation)
        yield f"{form}_numbers_in_transformers", lambda ids: log_probabilities(oracle, ids)


def _of_part(part: Any) -> Logits:
    return lambda ids: part(torch.tensor(list(ids))).log_softmax(-1)


def put_numbers(oracle: Any, weights: Path, quantisation: Quantisation[Scheme]) -> None:
    """Give transformers' model the numbers that a quantisation makes of a directory's matrices."""
    store = Store(weights)
    family = family_named(store.manifest.family, weights)
    parameters: Mapping[str, Tensor] = dict(oracle.named_parameters())
    is_tied = read_decoder(weights).tied
    with torch.no_grad():
        for key in file_keys(whole(store.manifest.layers))[1:]:
            for tensor, entry in store.manifest.files[key].tensors.items():
                scheme = quantisation.head if key == "end" else quantisation.layers
                if is_matrix(tensor, entry.shape):
                    _put(parameters, family.checkpoint_names(key, tensor), store.read(key, tensor), scheme)
        if is_tied:
            head = oracle.get_output_embeddings()
            matrix = store.read("end", "lm_head.weight")
            head.weight = torch.nn.Parameter(_made_of(matrix, quantisation.head), requires_grad=False)


def _put(parameters: Mapping[str, Tensor], names: Sequence[str], matrix: Tensor, scheme: Scheme) -> None:
    for name in names:
        if name in parameters:
            parameters[name].copy_(_made_of(matrix, scheme))


def _made_of(matrix: Tensor, scheme: Scheme) -> Tensor:
    columns = matrix.shape[1]
    return scheme.fitting(columns).unpack(scheme.pack(matrix), columns)


def _loss(window: Sequence[int], logs: Tensor) -> float:
    """Of all tokens that are told, in nats."""
    return float(-logs[:-1].gather(1, torch.tensor(window[1:])[:, None]).double().sum())


def _count(windows: Sequence[Sequence[int]]) -> int:
    return sum(len(window) - 1 for window in windows)


@dataclass(frozen=True, slots=True)
class _Expected:
    """What transformers says of a window. logs: in float16, for all windows' take two gigabytes; likeliest: before that."""

    logs: Tensor
    likeliest: Tensor


def _compare(
    windows: Sequence[Sequence[int]], expected: Sequence[_Expected], expected_loss: float, read: Logits
) -> dict[str, float]:
    loss, divergence, equal = 0.0, 0.0, 0
    with torch.inference_mode():
        for window, one in zip(windows, expected, strict=True):
            ours, theirs = read(window), one.logs.float()
            loss += _loss(window, ours)
            divergence += float((theirs.exp() * (theirs - ours)).sum())
            equal += int((one.likeliest == ours.argmax(1)).sum())
    tokens = sum(map(len, windows))
    return {
        "perplexity_change": math.exp((loss - expected_loss) / _count(windows)) - 1,
        "divergence_a_token": divergence / tokens,
        "equal_share": equal / tokens,
    }

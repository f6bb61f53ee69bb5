"""The decode measurement: our nodes, one node alone, and a rival take turns on the same weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from swarm.bench.bare_hop import measure_bare_hop_ms
from swarm.bench.checkpoint import read_decoder, split_evenly
from swarm.bench.rival import Rival
from swarm.bench.swarm_side import StreamFigures, SwarmSide
from swarm.parts import whole

PORT = 19700


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. options: of the nodes, which ask for a smaller form; then a node that has none is another rival."""

    nodes: int
    prompt_tokens: int = 128
    new_tokens: int = 64
    sessions: int = 16
    long_prompt: int = 1500
    long_prompt_alone: int = 512
    rounds: int = 5
    rival: bool = False
    options: tuple[str, ...] = ()


def run(plan: Plan, weights: Path, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Every figure by name: medians over interleaved rounds after one warm-up round.

    weights: a sepweight directory. folder: for what the nodes keep. Raises WeightsError.
    """
    decoder = read_decoder(weights)
    with contextlib.ExitStack() as stack:
        say(f"starting {plan.nodes} node(s)")
        parts, one = split_evenly(decoder, plan.nodes), [whole(decoder.layers)]
        ours = stack.enter_context(SwarmSide(weights, parts, folder / "many", PORT, plan.options))
        alone = ours
        if plan.nodes > 1:
            alone = stack.enter_context(SwarmSide(weights, one, folder / "one", PORT + 500, plan.options))
        plain = None
        if plan.options:
            plain = stack.enter_context(SwarmSide(weights, one, folder / "plain", PORT + 700))
        rival = None
        if plan.rival:
            say("starting transformers")
            rival = Rival(weights)
            stack.callback(rival.close)
        figures = _measure(plan, ours, alone, rival, say)
        return figures if plain is None else figures | _measure_beside_plain(plan, alone, plain, say)


def _measure(
    plan: Plan, ours: SwarmSide, alone: SwarmSide, rival: Rival | None, say: Callable[[str], None]
) -> dict[str, float]:
    streams: list[StreamFigures] = []
    singles: list[StreamFigures] = []
    rivals: list[dict[str, float]] = []
    many: list[float] = []
    many_alone: list[float] = []
    many_rival: list[float] = []
    bare: list[float] = []
    loads: list[float] = []
    for number in range(plan.rounds + 1):
        say(f"round {number} of {plan.rounds}{' (warm-up)' if number == 0 else ''}")
        streams.append(ours.measure_stream(plan.prompt_tokens, plan.new_tokens, number))
        singles.append(
            streams[-1] if alone is ours else alone.measure_stream(plan.prompt_tokens, plan.new_tokens, number)
        )
        bare.append(measure_bare_hop_ms(1 / streams[-1].decode_tokens_per_second))
        if rival is not None:
            rivals.append(rival.measure(1, plan.prompt_tokens, plan.new_tokens))
        many.append(ours.measure_many(plan.sessions, 16, plan.new_tokens, 1000 * number))
        many_alone.append(
            many[-1] if alone is ours else alone.measure_many(plan.sessions, 16, plan.new_tokens, 1000 * number)
        )
        if rival is not None:
            many_rival.append(rival.measure(plan.sessions, 16, plan.new_tokens)["decode_tokens_per_second"])
        loads.append(os.getloadavg()[0])
    disturbances = [ours.measure_disturbance(plan.long_prompt, number) for number in range(min(3, plan.rounds))]
    figures = {
        name: median(getattr(one, name) for one in streams[1:])
        for name in (
            "decode_tokens_per_second",
            "prompt_tokens_per_second",
            "first_token_seconds",
            "hop_overhead_ms",
        )
    }
    figures["bare_hop_ms"] = median(bare[1:])
    figures["hop_overhead_ratio"] = median(
        one.hop_overhead_ms / hop for one, hop in zip(streams[1:], bare[1:], strict=True)
    )
    figures["single_node_decode_tokens_per_second"] = median(one.decode_tokens_per_second for one in singles[1:])
    figures["single_node_ratio"] = median(
        one.decode_tokens_per_second / single.decode_tokens_per_second
        for one, single in zip(streams[1:], singles[1:], strict=True)
    )
    figures["many_sessions_tokens_per_second"] = median(many[1:])
    figures["single_node_many_tokens_per_second"] = median(many_alone[1:])
    figures["prompt_disturbance"] = median(disturbances)
    figures["load_average"] = median(loads)
    if rival is not None:
        figures |= _compare(streams[1:], singles[1:], rivals[1:], many[1:], many_alone[1:], many_rival[1:])
    return figures


def _measure_beside_plain(
    plan: Plan, smaller: SwarmSide, plain: SwarmSide, say: Callable[[str], None]
) -> dict[str, float]:
    """One node with matrices in a smaller form, and one with plain ones, in turn."""
    rounds: list[dict[str, float]] = []
    for number in range(plan.rounds + 1):
        say(f"beside plain matrices, round {number} of {plan.rounds}{' (warm-up)' if number == 0 else ''}")
        both = [_measure_alone(plan, side, 5000 + number) for side in (smaller, plain)]
        rounds.append({name: value / both[1][name] for name, value in both[0].items()})
    return {f"plain_{name}_ratio": median(one[name] for one in rounds[1:]) for name in rounds[0]}


def _measure_alone(plan: Plan, side: SwarmSide, seed: int) -> dict[str, float]:
    stream = side.measure_stream(plan.prompt_tokens, plan.new_tokens, seed)
    return {
        "decode": stream.decode_tokens_per_second,
        f"prompt_{plan.prompt_tokens}": stream.prompt_tokens_per_second,
        f"prompt_{plan.long_prompt_alone}": side.measure_prompt(plan.long_prompt_alone, seed),
        "many_sessions": side.measure_many(plan.sessions, 16, plan.new_tokens, 1000 * seed),
        "anonymous_bytes": side.anonymous_bytes(),
    }


def _compare(
    streams: list[StreamFigures],
    singles: list[StreamFigures],
    rivals: list[dict[str, float]],
    many: list[float],
    many_alone: list[float],
    many_rival: list[float],
) -> dict[str, float]:
    """Ratios are medians of the rounds' own ratios: the machine's speed drifts between rounds."""
    pairs = list(zip(streams, rivals, strict=True))
    return {
        "rival_decode_tokens_per_second": median(rival["decode_tokens_per_second"] for rival in rivals),
        "rival_prompt_tokens_per_second": median(rival["prompt_tokens_per_second"] for rival in rivals),
        "rival_many_tokens_per_second": median(many_rival),
        "decode_ratio": median(
            one.decode_tokens_per_second / rival["decode_tokens_per_second"] for one, rival in pairs
        ),
        "prompt_ratio": median(
            one.prompt_tokens_per_second / rival["prompt_tokens_per_second"] for one, rival in pairs
        ),
        "single_node_decode_ratio": median(
            one.decode_tokens_per_second / rival["decode_tokens_per_second"]
            for one, rival in zip(singles, rivals, strict=True)
        ),
        "many_sessions_ratio": median(one / rival for one, rival in zip(many, many_rival, strict=True)),
        "single_node_many_ratio": median(one / rival for one, rival in zip(many_alone, many_rival, strict=True)),
    }

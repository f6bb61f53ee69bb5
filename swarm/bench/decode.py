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
from swarm.bench.rounds import measure_rounds
from swarm.bench.swarm_side import SwarmSide
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
    """Every figure by name: medians of rounds, ratios of each round's own.

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
    def measure(number: int) -> dict[str, float]:
        prompt, new, seed = plan.prompt_tokens, plan.new_tokens, 1000 * number
        stream = ours.measure_stream(prompt, new, number)
        single = stream if alone is ours else alone.measure_stream(prompt, new, number)
        bare = measure_bare_hop_ms(1 / stream.decode_tokens_per_second)
        one_rival = None if rival is None else rival.measure(1, prompt, new)
        many = ours.measure_many(plan.sessions, 16, new, seed)
        many_alone = many if alone is ours else alone.measure_many(plan.sessions, 16, new, seed)
        figures = {
            "decode_tokens_per_second": stream.decode_tokens_per_second,
            "prompt_tokens_per_second": stream.prompt_tokens_per_second,
            "first_token_seconds": stream.first_token_seconds,
            "hop_overhead_ms": stream.hop_overhead_ms,
            "bare_hop_ms": bare,
            "hop_overhead_ratio": stream.hop_overhead_ms / bare,
            "single_node_decode_tokens_per_second": single.decode_tokens_per_second,
            "single_node_ratio": stream.decode_tokens_per_second / single.decode_tokens_per_second,
            "many_sessions_tokens_per_second": many,
            "single_node_many_tokens_per_second": many_alone,
            "load_average": os.getloadavg()[0],
        }
        if rival is not None and one_rival is not None:
            many_rival = rival.measure(plan.sessions, 16, new)["decode_tokens_per_second"]
            decode, prompted = one_rival["decode_tokens_per_second"], one_rival["prompt_tokens_per_second"]
            figures |= {
                "rival_decode_tokens_per_second": decode,
                "rival_prompt_tokens_per_second": prompted,
                "rival_many_tokens_per_second": many_rival,
                "decode_ratio": stream.decode_tokens_per_second / decode,
                "prompt_ratio": stream.prompt_tokens_per_second / prompted,
                "single_node_decode_ratio": single.decode_tokens_per_second / decode,
                "many_sessions_ratio": many / many_rival,
                "single_node_many_ratio": many_alone / many_rival,
            }
        return figures

    figures = measure_rounds(plan.rounds, measure, say)
    disturbances = [ours.measure_disturbance(plan.long_prompt, number) for number in range(min(3, plan.rounds))]
    return figures | {"prompt_disturbance": median(disturbances)}


def _measure_beside_plain(
    plan: Plan, smaller: SwarmSide, plain: SwarmSide, say: Callable[[str], None]
) -> dict[str, float]:
    """One node with matrices in a smaller form, and one with plain ones, in turn."""

    def measure(number: int) -> dict[str, float]:
        both = [_measure_alone(plan, side, 5000 + number) for side in (smaller, plain)]
        return {f"plain_{name}_ratio": value / both[1][name] for name, value in both[0].items()}

    return measure_rounds(plan.rounds, measure, say, "beside plain matrices, ")


def _measure_alone(plan: Plan, side: SwarmSide, seed: int) -> dict[str, float]:
    stream = side.measure_stream(plan.prompt_tokens, plan.new_tokens, seed)
    return {
        "decode": stream.decode_tokens_per_second,
        f"prompt_{plan.prompt_tokens}": stream.prompt_tokens_per_second,
        f"prompt_{plan.long_prompt_alone}": side.measure_prompt(plan.long_prompt_alone, seed),
        "many_sessions": side.measure_many(plan.sessions, 16, plan.new_tokens, 1000 * seed),
        "anonymous_bytes": side.anonymous_bytes(),
    }

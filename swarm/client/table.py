"""The swarm as plain data: its nodes, what models lack, and what is about to change, as every node works it out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.client.swarm import missing_of
from swarm.messages.members import Beat, Claim
from swarm.plan.holdings import Forecast
from swarm.plan.moves import plan_moves
from swarm.plan.view import NodeView, read_planned, read_views
from swarm.sizes import format_size

HIDDEN_SHARE = 0.95  # of a token's time: a pass that takes longer is what it waits for


def describe(beats: Sequence[Beat]) -> dict[str, object]:
    """The whole table as plain data."""
    layers = {claim.model: (claim.name, claim.layers) for beat in beats for claim in beat.claims}
    return {
        "nodes": [
            {
                "node": beat.node,
                "name": beat.name,
                "device": beat.device,
                "machine": beat.machine,
                "addresses": beat.addresses,
                "memory_total": beat.memory_total,
                "memory_free": beat.memory_free,
                "memory_budget": beat.memory_budget,
                "claims": [_describe_claim(claim) for claim in beat.claims],
                "sessions": beat.sessions,
                "queue": beat.queue,
                "refused": beat.refused,
                "dropped": beat.dropped,
                "resent": beat.resent,
                "passed_over": beat.passed_over,
                "turns_waited": beat.turns_waited,
                "moves": beat.moves,
                "caches": beat.caches,
                "rtts": beat.rtts,
                "bytes_per_second": beat.rates,
            }
            for beat in beats
        ],
        "models": [
            {
                "model": model,
                "name": layers[model][0],
                "layers": layers[model][1],
                "missing": missing.describe(),
                "is_complete": missing.is_empty(),
            }
            for model, missing in missing_of(beats, None).items()
        ],
    }


def _describe_claim(claim: Claim) -> dict[str, object]:
    return {
        "model": claim.model,
        "name": claim.name,
        "part": claim.part,
        "state": claim.state,
        "layer_seconds": claim.layer_seconds,
        "end_seconds": claim.end_seconds,
        "prompt_seconds": claim.prompt_seconds,
        "variant": claim.variant,
        "kind": claim.kind,
        "kv_free_positions": claim.kv_free_positions,
        "kv_positions": claim.kv_positions,
        "streamed": claim.streamed,
        "stall_seconds": claim.stall_seconds,
        "hit_rate": claim.hit_rate,
        "source_rate": claim.source_rate,
    }


def describe_plans(beats: Sequence[Beat]) -> list[dict[str, object]]:
    """What each model's nodes are about to do, as every node works it out."""
    layers = {claim.model: (claim.name, claim.layers) for beat in beats for claim in beat.claims}
    names = {beat.node: beat.name for beat in beats}
    plans: list[dict[str, object]] = []
    for model, (name, count) in sorted(layers.items()):
        plan = plan_moves(read_planned(beats, model, count), count)
        plans.append(
            {
                "model": model,
                "name": name,
                "before": _describe_forecast(plan.before),
                "after": _describe_forecast(plan.after),
                "moves": [
                    {
                        "node": move.node,
                        "name": names[move.node],
                        "before": str(move.before),
                        "after": str(move.after),
                        "reason": move.reason,
                    }
                    for move in plan.moves
                ],
                "reading": [
                    _describe_reading(names[view.node], view, plan.before.seconds_a_token)
                    for view in read_views(beats, model, count)
                    if view.streamed
                ],
                "loading": [
                    {"name": beat.name, "part": claim.part, "reason": _explain_loading(claim)}
                    for beat in beats
                    for claim in beat.claims
                    if (claim.model, claim.state) == (model, "loading")
                ],
                "standby": [
                    {"node": node, "name": names[node], "reason": reason} for node, reason in plan.standby.items()
                ],
            }
        )
    return plans


def _describe_reading(name: str, view: NodeView, seconds_a_token: float) -> dict[str, object]:
    """How much a node reads, and whether the others' time hides that."""
    streamed = view.streamed
    seconds = streamed * view.read_seconds
    layers = view.part("serving", "loading", "draining").layer_count
    what = f"reads {streamed} of {layers} layers"
    if not seconds:
        what += " from disk; not measured yet"
    elif seconds < HIDDEN_SHARE * seconds_a_token:
        what += f" from disk in {seconds * 1000:.0f} ms, hidden behind the rest of the chain"
    else:
        what += f" from disk in {seconds * 1000:.0f} ms: a token takes as long"
    return {"name": name, "streamed": streamed, "layers": layers, "pass_seconds": seconds, "reason": what}


def _explain_loading(claim: Claim) -> str:
    return f"loading, {format_size(claim.loaded_bytes)} so far; answers go on where they are until it serves"


def _describe_forecast(forecast: Forecast) -> dict[str, object]:
    is_whole = not forecast.missing
    return {
        "seconds_a_token": round(forecast.seconds_a_token, 6) if is_whole else None,
        "tokens_per_second_of_one": round(1 / forecast.seconds_a_token, 3) if is_whole else 0.0,
        "tokens_per_second_of_many": round(forecast.tokens_a_second, 3),
        "prompt_tokens_per_second": round(forecast.prompt_tokens_a_second, 1),
    }

"""Says what the swarm is about to change, and why: the plan that every node works out by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from swarm.messages.members import Beat, Claim
    from swarm.plan.holdings import Forecast
    from swarm.plan.view import NodeView

HIDDEN_SHARE = 0.95  # of a token's time: a pass that takes longer is what it waits for


def describe_plans(beats: Sequence[Beat]) -> list[dict[str, object]]:
    """What each model's nodes are about to do, as every node works it out."""
    from swarm.plan.moves import plan_moves
    from swarm.plan.view import read_planned, read_views

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
    from swarm.sizes import format_size

    return f"loading, {format_size(claim.loaded_bytes)} so far; answers go on where they are until it serves"


def _describe_forecast(forecast: Forecast) -> dict[str, object]:
    is_whole = not forecast.missing
    return {
        "seconds_a_token": round(forecast.seconds_a_token, 6) if is_whole else None,
        "tokens_per_second_of_one": round(1 / forecast.seconds_a_token, 3) if is_whole else 0.0,
        "tokens_per_second_of_many": round(forecast.tokens_a_second, 3),
        "prompt_tokens_per_second": round(forecast.prompt_tokens_a_second, 1),
    }


def _compare(plan: Mapping[str, Any], figure: str, form: str) -> str:
    return " → ".join(format(plan[when][figure], form) for when in ("before", "after"))


def draw_plans(plans: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table a model: each move and its reason, or that nothing is to be done."""
    from rich.table import Table

    tables: list[Table] = []
    for plan in plans:
        speeds = _compare(plan, "tokens_per_second_of_one", ".1f")
        prompts = _compare(plan, "prompt_tokens_per_second", ".0f")
        table = Table(title=f"plan for {plan['name']}: {speeds} tokens/s of one answer, {prompts} of a prompt")
        for column in ("node", "now", "then", "why"):
            table.add_column(column, overflow="fold")
        for move in plan["moves"]:
            table.add_row(move["name"], move["before"] or "nothing", move["after"], move["reason"])
        for reading in plan["reading"]:
            table.add_row(reading["name"], "", "", reading["reason"])
        for standby in plan["standby"]:
            table.add_row(standby["name"], "", "stands by", standby["reason"])
        for loading in plan["loading"]:
            table.add_row(loading["name"], "", loading["part"], loading["reason"])
        if not plan["moves"] and not plan["loading"]:
            table.add_row("", "", "nobody moves", "nothing is worth its loading")
        tables.append(table)
    return tables

"""Draws what the swarm is about to change, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


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

"""Draws where an answer's tokens spend their time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

    from swarm.client.why import Why

BAR_WIDTH = 20


def draw_why(why: Why, names: Mapping[str, str]) -> Group:
    """A row for each hop, its bar beginning where the one before ends. names: of nodes."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("hop", overflow="fold")
    table.add_column("part", overflow="fold")
    for column in ("queue", "turn", "compute", "wire"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(Text("ms"), no_wrap=True)
    whole = why.waterfall.seconds or 1.0
    before = 0.0
    for times in why.waterfall.hops:
        figures = (times.queued, times.waited, times.computed, times.sent)
        begin, end = (round(BAR_WIDTH * seconds / whole) for seconds in (before, before + times.seconds))
        before += times.seconds
        bar = " " * min(begin, BAR_WIDTH - 1) + "█" * max(1, end - begin)
        name = names.get(times.hop.node, times.hop.node)
        table.add_row(Text(name), Text(str(times.hop.part)), *(f"{figure * 1000:.1f}" for figure in figures), Text(bar))
    summed = f"the hops account for {why.waterfall.seconds * 1000:.1f} ms of a token"
    came = f"; one came every {why.measured * 1000:.1f} ms (medians of {why.waterfall.tokens})" if why.measured else ""
    return Group(table, Text(summed + came), Text(why.said))


def print_why(why: Why | None, names: Mapping[str, str]) -> None:
    """On stderr: stdout has the answer alone."""
    from rich.console import Console

    console = Console(stderr=True)
    console.print("too few tokens to say where they spend their time" if why is None else draw_why(why, names))

"""swarm-status: who is in the swarm, what they serve, and what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm.cli.command import run, version_option
from swarm.cli.connecting import connect, swarm_options
from swarm.cli.plans import draw_plans

if TYPE_CHECKING:
    from rich.console import Group

    from swarm.messages.members import Beat, Claim

FIND_SECONDS = 4.0
SETTLE_SECONDS = 1.2  # pages of the table and late adverts
WATCH_SECONDS = 1.0
BAR_WIDTH = 40
WIDE = 120  # columns of a terminal that shows everything


@click.command(name="swarm-status", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--plan", "with_plan", is_flag=True, help="Also show which moves are due, why, and what they promise.")
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@swarm_options
@version_option
def status(
    as_json: bool,
    with_plan: bool,
    watch: bool,
    peers: tuple[str, ...],
    no_mdns: bool,
    hosts: tuple[str, ...],
    secret_file: Path | None,
) -> None:
    """Show the nodes, their claims and memory, the models' coverage and what is missing."""
    from swarm.client.table import describe, describe_plans

    with connect(peers, not no_mdns, hosts, secret_file) as swarm:
        swarm.wait_for(lambda beats: bool(beats), FIND_SECONDS)
        swarm.wait_for(lambda beats: False, SETTLE_SECONDS)
        if as_json:
            plans = {"plans": describe_plans(swarm.beats)} if with_plan else {}
            click.echo(json.dumps(describe(swarm.beats) | plans))
            return
        from rich.console import Console, Group
        from rich.live import Live

        console = Console()

        def draw_all() -> Group:
            return Group(
                draw(swarm.beats, console.width), *(draw_plans(describe_plans(swarm.beats)) if with_plan else [])
            )

        if not watch:
            console.print(draw_all())
            return
        with Live(draw_all(), console=console, screen=False) as live:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(draw_all())


def _describe_state(claim: Claim) -> list[str]:
    """Words, of which none is to be broken: a part is one."""
    from swarm.sizes import format_size

    so_far = f", {format_size(claim.loaded_bytes)} so far" if claim.state == "loading" else ""
    words = [claim.name, claim.variant, f"'{claim.part}'", claim.state, f"{so_far}{_describe_streaming(claim)}"]
    said = [word for word in words if word]
    return said if said[-1] == claim.state else [*said[:-2], *f"{said[-2]}{said[-1]}".split(" ")]


def _describe_streaming(claim: Claim) -> str:
    """How many layers come from disk; once a batch has run, how fast, how many in time, how long it waits for the rest."""
    from swarm.sizes import format_size

    if not claim.streamed:
        return ""
    pace = f" at {format_size(claim.source_rate)}/s, {claim.hit_rate:.0%} in time, "
    pace += f"waiting {claim.stall_seconds * 1000:.0f} ms a batch"
    return f", {claim.streamed} layers from disk{pace if claim.source_rate else ''}"


def _middle_rtt(beat: Beat) -> str:
    rtts = sorted(beat.rtts.values())
    return f"{rtts[len(rtts) // 2] * 1000:.1f}" if rtts else ""


def draw(beats: Sequence[Beat], width: int = 200) -> Group:
    """For a terminal of so many columns: tables, or a list where there is no room for them."""
    from rich.console import Group
    from rich.text import Text

    if width < WIDE:
        return Group(Text("\n".join(list_nodes(beats, width)), no_wrap=True, overflow="ignore"))
    return draw_tables(beats)


def list_nodes(beats: Sequence[Beat], width: int) -> list[str]:
    """Nodes, what they serve and models in lines of so many columns, of which only a longer word is more."""
    from swarm.sizes import format_size

    lines: list[str] = []
    for beat in beats:
        memory = f"{format_size(beat.memory_free)} of {format_size(beat.memory_budget or beat.memory_total)} free,"
        sessions = "1 session" if beat.sessions == 1 else f"{beat.sessions} sessions"
        lines += wrap([f"{beat.name}:", *memory.split(" "), *sessions.split(" ")], width, "    ")
        for claim in beat.claims:
            said = _describe_state(claim)
            pace = f", {claim.layer_seconds * 1000:.2f} ms a layer" if claim.layer_seconds else ""
            lines += wrap([f"  {said[0]}", *said[1:-1], *f"{said[-1]}{pace}".split(" ")], width, "    ")
        if not beat.claims:
            lines.append("  nothing yet")
    for name, bar, missing in coverage(beats):
        lines += wrap([f"{name}:", bar, *f"missing {missing or 'nothing'}".split(" ")], width, "    ")
    return lines


def wrap(words: Sequence[str], width: int, indent: str) -> list[str]:
    """Words in lines of at most so many columns, as long as each fits one; lines after the first are indented."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return lines


def draw_tables(beats: Sequence[Beat]) -> Group:
    """All that there is to see."""
    from rich.console import Group
    from rich.table import Table

    from swarm.sizes import format_size

    columns: dict[str, list[str]] = {
        "node": [beat.node for beat in beats],
        "name": [beat.name for beat in beats],
        "serves": [
            "\n".join(" ".join(_describe_state(claim)) for claim in beat.claims) or "nothing yet" for beat in beats
        ],
        "memory free": [
            f"{format_size(beat.memory_free)} of {format_size(beat.memory_budget or beat.memory_total)}"
            for beat in beats
        ],
        "ms a layer": ["\n".join(f"{claim.layer_seconds * 1000:.2f}" for claim in beat.claims) for beat in beats],
        "sessions": [str(beat.sessions) for beat in beats],
        "device": [beat.device for beat in beats],
        "refused/resent": [f"{beat.refused + beat.dropped}/{beat.resent}" for beat in beats],
        "rtt ms": [_middle_rtt(beat) for beat in beats],
    }
    nodes = Table(title="nodes")
    for column in columns:
        nodes.add_column(column, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        nodes.add_row(*row)
    models = Table(title="models")
    for column in ("model", "coverage", "missing"):
        models.add_column(column, overflow="fold")
    for name, bar, missing in coverage(beats):
        models.add_row(name, bar, missing or "nothing")
    return Group(nodes, models)


def coverage(beats: Sequence[Beat]) -> list[tuple[str, str, str]]:
    """(name, bar, missing cells in words) of each model; the bar's digits count the nodes that serve a stretch."""
    from swarm.parts import parse_part, part_of
    from swarm.plan.claims import Held, count_coverage

    rows: list[tuple[str, str, str]] = []
    layers = {claim.model: (claim.name, claim.layers) for beat in beats for claim in beat.claims}
    for model, (name, count) in sorted(layers.items()):
        held = [
            Held(beat.node, model, parse_part(claim.part, count))
            for beat in beats
            for claim in beat.claims
            if claim.model == model and claim.state == "serving" and claim.layers == count
        ]
        counts = count_coverage(held, {model: count})[model]
        width = min(BAR_WIDTH, len(counts))
        bar = "".join(
            str(min(9, min(counts[index * len(counts) // width : (index + 1) * len(counts) // width]))).replace(
                "0", "·"
            )
            for index in range(width)
        )
        missing = [cell for cell, nodes in enumerate(counts) if not nodes]
        rows.append((name, bar, part_of(missing, count).describe()))
    return rows


def main() -> None:
    run(status)

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


def _describe_state(claim: Claim) -> str:
    from swarm.sizes import format_size

    so_far = f", {format_size(claim.loaded_bytes)} so far" if claim.state == "loading" else ""
    variant = f" {claim.variant}" if claim.variant else ""
    return f"{claim.name}{variant} '{claim.part}' {claim.state}{so_far}{_describe_streaming(claim)}"


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
    """Tables for a terminal of so many columns; a narrow one is spared what only a closer look needs."""
    from rich.console import Group
    from rich.table import Table

    from swarm.sizes import format_size

    columns: dict[str, list[str]] = {
        "name": [beat.name for beat in beats],
        "serves": ["\n".join(_describe_state(claim) for claim in beat.claims) or "nothing yet" for beat in beats],
        "memory free": [
            f"{format_size(beat.memory_free)} of {format_size(beat.memory_budget or beat.memory_total)}"
            for beat in beats
        ],
        "ms a layer": ["\n".join(f"{claim.layer_seconds * 1000:.2f}" for claim in beat.claims) for beat in beats],
        "sessions": [str(beat.sessions) for beat in beats],
    }
    if width >= WIDE:
        columns = {"node": [beat.node for beat in beats], **columns}
        columns["device"] = [beat.device for beat in beats]
        columns["refused/resent"] = [f"{beat.refused + beat.dropped}/{beat.resent}" for beat in beats]
        columns["rtt ms"] = [_middle_rtt(beat) for beat in beats]
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

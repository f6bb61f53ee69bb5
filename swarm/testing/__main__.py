"""`python -m swarm.testing`: runs seeded histories of a swarm and says how to replay those that fail."""

from __future__ import annotations

import sys
import traceback
from concurrent.futures import ProcessPoolExecutor

import click

from swarm.testing.scenarios import run_scenario


def try_scenario(seed: int) -> str:
    """What went wrong; nothing if all was well."""
    try:
        run_scenario(seed)
    except Exception as error:  # a machine that raises has broken a promise too
        return f"{type(error).__name__}: {error}"
    return ""


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many histories, from 0 on.")
@click.option("--seed", type=int, help="Just this one, with a traceback if it fails.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
def simulate(seeds: int, seed: int | None, workers: int) -> None:
    """Run histories in which nodes come, go, stall and lose touch under clients that ask."""
    if seed is not None:
        try:
            simulation = run_scenario(seed)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        click.echo(f"seed {seed}: all promises kept in {simulation.now:.0f} s of its own time")
        return
    failed = 0
    with ProcessPoolExecutor(workers) as pool:
        for number, what in enumerate(pool.map(try_scenario, range(seeds), chunksize=4)):
            if what:
                failed += 1
                click.echo(f"seed {number}: {what}\n  replay: make simulate SEED={number}")
    click.echo(f"{seeds - failed} of {seeds} histories kept every promise")
    sys.exit(failed > 0)


if __name__ == "__main__":
    simulate()

"""swarm-batch: answers or scores the lines of a file on this machine, without a swarm."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.command import EXIT_FAILED, run, version_option
from swarm.cli.quantised import quantise_options, read_quantisation
from swarm.cli.tuning import prepare_to_compute


@click.command(name="swarm-batch", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="INPUT.jsonl", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("target", metavar="OUTPUT.jsonl", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="A sepweight directory.")
@click.option(
    "--memory", help="Use at most this much for weights, KV and scratch, for example 6GB; default: what is free."
)
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Compute in this; default: as stored."
)
@quantise_options
@click.option(
    "--part",
    default="f",
    help='Run only this part, for example "b 0-16", on what is scored, and write its hidden states (*.safetensors); '
    "those are another machine's input, which goes on with its part.",
)
@click.option(
    "--spill",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where hidden states go that memory has no room for; default: beside the output.",
)
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Of an answer.")
@click.option("--score", "scores", is_flag=True, help="Tell how likely each prompt is, and answer nothing.")
@click.option("--temperature", type=click.FloatRange(0, 100), default=0.0, show_default=True, help="0: greedy.")
@click.option("--top-k", type=click.IntRange(0), default=0, help="Draw among so many; 0: all.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Draw among the likeliest.")
@click.option("--seed", type=click.IntRange(0, (1 << 62) - 1), default=0, show_default=True, help="Of the draws.")
@version_option
def batch(
    source: Path,
    target: Path,
    weights: Path,
    memory: str | None,
    dtype: str | None,
    form: str | None,
    head_form: str | None,
    part: str,
    spill: Path | None,
    max_tokens: int,
    scores: bool,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
) -> int:
    """Answer every line of INPUT.jsonl: {"prompt": …}, {"messages": […]}, or OpenAI's batch form; or score
    {"prompt": …, "continuations": […]}.

    Each weight is read once a step for all lines together, from disk if it must be. What is interrupted goes on where it was
    when the same command is given again.
    """
    prepare_to_compute()
    from swarm.batch.run import run_batch
    from swarm.batch.settings import BatchSettings
    from swarm.messages.sampling import Sampling

    settings = BatchSettings(
        weights=weights,
        memory=memory,
        dtype=dtype,
        quantisation=read_quantisation(form, head_form),
        part=part,
        spill=spill,
        max_tokens=max_tokens,
        scores=scores,
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
    )
    done = run_batch(settings, source, target, lambda said: click.echo(f"swarm-batch: {said}", err=True))
    rate = done.tokens / done.seconds if done.seconds else 0.0
    click.echo(f"{done.lines - done.bad} of {done.lines} lines done, {done.tokens} tokens, {rate:.1f} tokens/s")
    if done.bad:
        click.echo(f"swarm-batch: {done.bad} lines could not be done; the output says why", err=True)
    return EXIT_FAILED if done.bad else 0


def main() -> None:
    run(batch)

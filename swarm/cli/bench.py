"""swarm-bench: measures real nodes on this machine, beside a rival where asked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from swarm.bench.shapes import CONFIGS, Shape
from swarm.cli.command import run, version_option
from swarm.cli.quantised import quantise_options
from swarm.cli.tuning import bound_spins

weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="A sepweight directory with a tokenizer, for the nodes.",
)


@click.group(name="swarm-bench", context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def bench() -> None:
    """Measure the swarm on this machine, on loopback."""


@bench.command()
@click.option(
    "--weights",
    type=click.Path(path_type=Path, file_okay=False),
    help="A sepweight directory; default: random weights of a Falcon of the shape that is told.",
)
@click.option("--nodes", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=12, show_default=True)
@click.option("--hidden", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--heads", type=click.IntRange(1), default=32, show_default=True)
@click.option("--kv-heads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--vocab", "vocabulary", type=click.IntRange(12), default=65024, show_default=True)
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Measured rounds; the sides take turns."
)
@click.option("--new-tokens", type=click.IntRange(8), default=64, show_default=True)
@quantise_options
@click.option("--against", type=click.Choice(["transformers"]), help="A rival to run in turn on the same weights.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line.")
def decode(
    weights: Path | None,
    nodes: int,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    dtype: str,
    rounds: int,
    new_tokens: int,
    form: str | None,
    head_form: str | None,
    against: str | None,
    as_json: bool,
) -> None:
    """Decode and prompt speed of NODES node processes that share a model.

    With --quantize, a node whose matrices are as they are stored is measured beside one that makes them smaller, too.
    """
    bound_spins()
    from swarm.bench.checkpoint import make_checkpoint
    from swarm.bench.decode import Plan
    from swarm.bench.decode import run as measure

    shape = Shape(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, vocabulary=vocabulary, dtype=dtype)
    options = tuple(
        word
        for name, value in (("--quantize", form), ("--quantize-head", head_form))
        if value is not None
        for word in (name, value)
    )
    plan = Plan(nodes=nodes, rounds=rounds, new_tokens=new_tokens, rival=against is not None, options=options)
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as folder:
        if weights is None:
            click.echo("making the checkpoint", err=True)
            weights = Path(folder) / "weights"
            make_checkpoint(shape, weights)
        figures = measure(plan, weights, Path(folder), _say)
    _print(figures, as_json)


@bench.command()
@weights_option
@click.option(
    "--reference",
    type=click.Path(path_type=Path, file_okay=False),
    help="The same model for transformers, in another dtype; default: WEIGHTS.",
)
@click.option("--nodes", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option(
    "--quantize",
    "forms",
    multiple=True,
    metavar="FORM[/HEAD]",
    help="The text's perplexity in this form, in this process; may be given again.",
)
@click.option(
    "--beside",
    "others",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The same with another directory of the model, in a form of its own; may be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line.")
def fidelity(
    weights: Path,
    reference: Path | None,
    nodes: int,
    forms: tuple[str, ...],
    others: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Greedy answers and a text's perplexity over NODES node processes, beside transformers.

    With --quantize or --beside: how likely the text is in smaller forms, without nodes.
    """
    from swarm.bench.fidelity import FidelityPlan
    from swarm.bench.fidelity import run as measure
    from swarm.bench.forms import run as measure_forms

    if forms or others:
        _print(measure_forms(FidelityPlan(), weights, reference or weights, forms, others, _say), as_json)
        return
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as folder:
        figures = measure(FidelityPlan(nodes=nodes), weights, reference or weights, Path(folder), _say)
    _print(figures, as_json)


@bench.command()
@click.argument("model", type=click.Choice(sorted(CONFIGS)))
@click.option("--quantize", "form", metavar="FORM", help="Make matrices smaller while they are loaded.")
@click.option("--stored", "is_stored", is_flag=True, help="Store them so first; then plain layers are loaded in turn.")
@click.option("--layers", type=click.IntRange(1), help="Fewer layers than the model has.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where there is room for its weights.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line.")
def load(model: str, form: str | None, is_stored: bool, layers: int | None, folder: Path | None, as_json: bool) -> None:
    """Seconds and memory that one node needs to load random weights of a model's shape.

    With --stored: of layers that are stored in a form beside plain ones, in this process.
    """
    if is_stored and form is None:
        raise click.UsageError("--stored needs --quantize FORM: what they are stored in")
    bound_spins()
    from swarm.bench.load import LoadPlan
    from swarm.bench.load import run as measure
    from swarm.bench.load import run_stored as measure_stored

    measure = measure_stored if is_stored else measure
    with tempfile.TemporaryDirectory(prefix="swarm-bench-", dir=folder) as place:
        _print(measure(LoadPlan(model=model, form=form, layers=layers), Path(place), _say), as_json)


@bench.command()
@click.option("--layers", type=click.IntRange(2), default=12, show_default=True)
@click.option("--hidden", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measured rounds, in turn.")
@click.option("--quantize", "form", metavar="FORM", help="Make matrices smaller while they are loaded.")
@click.option("--chains", "has_chains", is_flag=True, help="Also chains of three nodes, of which some read.")
@click.option("--against", type=click.Choice(["accelerate"]), help="Also this rival, with layers offloaded to disk.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="On the disk that is to be read.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line.")
def stream(
    layers: int,
    hidden: int,
    rounds: int,
    form: str | None,
    has_chains: bool,
    against: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Speed with half of the layers read from disk each time, beside all of them kept, in one process."""
    bound_spins()
    from swarm.bench.checkpoint import make_checkpoint
    from swarm.bench.stream import StreamPlan
    from swarm.bench.stream import run as measure
    from swarm.bench.stream_chain import ChainPlan
    from swarm.bench.stream_chain import run as measure_chains

    shape = Shape(layers=layers, hidden=hidden)
    with tempfile.TemporaryDirectory(prefix="swarm-bench-", dir=folder) as place:
        weights = Path(place) / "weights"
        _say("making the checkpoint")
        make_checkpoint(shape, weights)
        plan = StreamPlan(shape=shape, rounds=rounds, form=form, has_rival=against is not None)
        figures = measure(plan, weights, Path(place), _say)
        if has_chains:
            layer_bytes = int(figures["pass_bytes"]) // (layers // 2)
            options = () if form is None else ("--quantize", form, "--quantize-head", form)
            chains = ChainPlan(layers=layers, layer_bytes=layer_bytes, rounds=rounds, options=options)
            figures |= measure_chains(chains, weights, Path(place), _say)
            if against:
                alone, three = (
                    figures["0.4_gb_half_accelerate_token_seconds"],
                    figures["chain_three_read_half_token_seconds"],
                )
                figures["chain_three_read_half_of_accelerate"] = alone / three
        _print(figures, as_json)


@bench.command()
@click.option("--layers", type=click.IntRange(4), default=12, show_default=True)
@click.option("--hidden", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--prompts", type=click.IntRange(1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measured rounds, in turn.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="On the disk that is to be read.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line.")
def batch(layers: int, hidden: int, prompts: int, rounds: int, folder: Path | None, as_json: bool) -> None:
    """swarm-batch with memory for a quarter of the layers, beside one prompt, and beside all layers kept."""
    bound_spins()
    from swarm.bench.batch import BatchPlan
    from swarm.bench.batch import run as measure

    shape = Shape(layers=layers, hidden=hidden)
    with tempfile.TemporaryDirectory(prefix="swarm-bench-", dir=folder) as place:
        _print(measure(BatchPlan(shape=shape, prompts=prompts, rounds=rounds), Path(place), _say), as_json)


@bench.command()
@weights_option
@click.option("--nodes", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Measured rounds, in turn.")
@click.option("--against", type=click.Choice(["transformers"]), help="Its static batches, in turn with streams.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line.")
def gateway(weights: Path, nodes: int, rounds: int, against: str | None, as_json: bool) -> None:
    """What swarm-gateway costs over NODES node processes: a token, the first one, 64 streams, a second turn."""
    bound_spins()
    from swarm.bench.gateway import GatewayPlan
    from swarm.bench.gateway import run as measure

    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as folder:
        plan = GatewayPlan(nodes=nodes, rounds=rounds, has_rival=against is not None)
        _print(measure(plan, weights, Path(folder), _say), as_json)


@bench.command()
@click.option("--nodes", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=120, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Random swarms.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line.")
def plan(nodes: int, layers: int, rounds: int, as_json: bool) -> None:
    """How long a node takes to plan the moves of a swarm of NODES nodes."""
    from swarm.bench.plan import measure_planning

    _print(measure_planning(nodes, layers, rounds), as_json)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _print(figures: Mapping[str, float], as_json: bool) -> None:
    rounded = {name: float(f"{value:.4g}") if abs(value) < 1 else round(value, 3) for name, value in figures.items()}
    if as_json:
        click.echo(json.dumps(rounded))
        return
    for name, value in rounded.items():
        click.echo(f"{name:40} {value}")


def main() -> None:
    run(bench)

"""swarm-weights: converts, exports, checks and describes sepweight directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm.cli.command import EXIT_FAILED, run, version_option
from swarm.cli.quantised import FORMS, choose_form, head_option, quantise_options, read_quantisation
from swarm.sizes import format_size

if TYPE_CHECKING:
    from swarm.decoder.scheme import Scheme
    from swarm.sepweight.dump import Progress
    from swarm.sepweight.manifest import Manifest
    from swarm.sepweight.scheme import Quantisation

DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group(name="swarm-weights", context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def weights() -> None:
    """Weights on disk as one file a layer: convert, export, verify and describe sepweight directories."""


@weights.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=DIRECTORY)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Convert to this; default: as stored, bfloat16 for what is quantised.",
)
@quantise_options
@click.option("--name", help="What users call the model; default: the name of DESTINATION.")
@click.option("--tokenizer", type=DIRECTORY, help="Take tokenizer.json and the like from here, for a GGUF file.")
@click.option("--keep-blocks", is_flag=True, help="Keep a GGUF file's own numbers, where there is a form for them.")
@click.option(
    "--requantize",
    "other_form",
    metavar="FORM",
    help=f"Make other numbers of a GPTQ, AWQ or FP8 checkpoint: plain, {FORMS}. Default: keep its own.",
)
@click.option(
    "--gptq-zero-plus-one/--no-gptq-zero-plus-one",
    "zero_plus_one",
    default=None,
    help="Whether points of zero are one more than they are stored as; default: as the checkpoint says.",
)
def convert(
    source: Path,
    destination: Path,
    dtype: str | None,
    form: str | None,
    head_form: str | None,
    name: str | None,
    tokenizer: Path | None,
    keep_blocks: bool,
    other_form: str | None,
    zero_plus_one: bool | None,
) -> None:
    """Convert SOURCE into DESTINATION: a Hugging Face checkpoint, a GGUF file, or a legacy sepweight directory.

    Of a split GGUF file name any part. Interrupted, it resumes where it stopped when run again.
    """
    from swarm.checkpoints import open_checkpoint
    from swarm.decoder.schemes import variant_of
    from swarm.sepweight.convert import convert_source

    with (
        open_checkpoint(source, tokenizer, zero_plus_one=zero_plus_one) as opened,
        _ProgressBar("converting") as progress,
    ):
        quantisation, keeps = choose_form(opened.source, source, form, head_form, other_form, keeps_blocks=keep_blocks)
        if opened.left_out:
            click.echo(
                f"swarm-weights: converting the text model alone, without {', '.join(opened.left_out)}", err=True
            )
        manifest = convert_source(
            opened.source,
            destination,
            opened.family,
            dtype=dtype,
            quantisation=quantisation,
            keeps=keeps,
            name=name,
            progress=progress,
        )
    if "tokenizer.json" not in manifest.documents:
        way = (
            "copy tokenizer.json there and run this again"
            if source.is_dir()
            else "pass --tokenizer DIR, and run this again"
        )
        click.echo(
            f"swarm-weights: {source} tells no tokenizer; swarm-chat cannot talk to the model without one: {way}",
            err=True,
        )
    _say_misfits(manifest, quantisation)
    variant = variant_of(manifest.scheme, manifest.dtype, manifest.dtype)
    click.echo(f"{destination}: {manifest.name}, {manifest.layers} layers, {variant}, model id {manifest.model_id}")


@weights.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("destination", type=DIRECTORY)
@click.option("--to", "form", metavar="FORM", default="int8", show_default=True, help=f"The smaller form: {FORMS}.")
@head_option
def quantize(directory: Path, destination: Path, form: str, head_form: str | None) -> None:
    """Write DIRECTORY's matrices in a smaller form into DESTINATION: the same model, another variant of it.

    Interrupted, it resumes where it stopped when run again.
    """
    from swarm.decoder.schemes import variant_of
    from swarm.families import family_named
    from swarm.sepweight.manifest import read_manifest
    from swarm.sepweight.requantise import quantise

    family = family_named(read_manifest(directory).family, directory)
    quantisation = read_quantisation(form, head_form)
    assert quantisation is not None
    with _ProgressBar("quantising") as progress:
        manifest = quantise(directory, destination, family, quantisation, progress=progress)
    _say_misfits(manifest, quantisation)
    size = sum(entry.bytes for entry in manifest.files.values())
    variant = variant_of(manifest.scheme, manifest.dtype, manifest.dtype)
    click.echo(f"{destination}: {manifest.name} as {variant}, {format_size(size)}")


@weights.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--part", "spec", help='Of these layers alone, for example "16-32"; default: of all that are here.')
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="As for the node; default: as stored."
)
@quantise_options
def pack(directory: Path, spec: str | None, dtype: str | None, form: str | None, head_form: str | None) -> None:
    """Lay DIRECTORY's layers out for this machine's processor, for nodes that read them from disk each time.

    A node does so itself with those that it streams, when it is started; those that are there already are left as they are.
    """
    from swarm.loading import pack_layers
    from swarm.parts import parse_part
    from swarm.sepweight.manifest import present_part, read_manifest

    manifest = read_manifest(directory)
    here = present_part(directory, manifest)
    numbers = (here if spec is None else parse_part(spec, manifest.layers)).layers
    quantisation = read_quantisation(form, head_form)
    with _ProgressBar("packing") as progress:
        pack_layers(directory, numbers, dtype, quantisation, lambda done, total: progress(done, total, ""))
    click.echo(f"{directory}: {len(numbers)} layers packed for this processor")


def _say_misfits(manifest: Manifest, quantisation: Quantisation[Scheme] | None) -> None:
    """Tell where another form was taken than was asked for."""
    from swarm.decoder.forms import misfits
    from swarm.families import family_named

    if quantisation is not None:
        for misfit in misfits(quantisation, family_named(manifest.family, manifest.name).read(manifest.config)):
            click.echo(f"swarm-weights: {misfit}", err=True)


@weights.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("destination", type=DIRECTORY)
@click.option("--legacy", is_flag=True, required=True, help="Write .pth files that llm_sepweight loads.")
def export(directory: Path, destination: Path, legacy: bool) -> None:
    """Write DIRECTORY in another layout."""
    del legacy  # the one layout there is; asked for by name so that others may follow
    from swarm.sepweight.export import export_legacy

    with _ProgressBar("exporting") as progress:
        export_legacy(directory, destination, progress=progress)


@weights.command()
@click.argument("directory", type=DIRECTORY)
@quantise_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(directory: Path, form: str | None, head_form: str | None, as_json: bool) -> None:
    """Say what a sepweight directory holds, and how many bytes its weights take in a CPU's memory.

    With --quantize: how many they would take in that form.
    """
    from swarm.decoder.device import Cpu
    from swarm.decoder.forms import Forms
    from swarm.families import family_named
    from swarm.node.compute.memory import model_memory
    from swarm.parts import part_of, whole
    from swarm.sepweight.manifest import file_keys, present_keys, read_manifest

    manifest = read_manifest(directory)
    decoder = family_named(manifest.family, directory).read(manifest.config)
    forms = Forms(manifest, directory, read_quantisation(form, head_form))
    memory = model_memory(manifest, decoder, forms, None, Cpu())
    present = set(present_keys(directory, manifest))
    keys = file_keys(whole(manifest.layers))
    cells_here = [cell for cell, key in enumerate(keys) if key in present]
    facts = {
        "name": manifest.name,
        "family": manifest.family,
        "model_id": manifest.model_id,
        "dtype": manifest.dtype,
        "scheme": manifest.scheme,
        "layers": manifest.layers,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "layer_bytes": manifest.files[keys[1]].bytes,
        "variant": forms.variant(manifest.dtype),
        "memory_bytes": memory.weights(whole(manifest.layers)),
        "memory_layer_bytes": memory.weight_costs.layer,
        "present": part_of(cells_here, manifest.layers).describe(),
        "is_complete": len(cells_here) == len(keys),
        "documents": sorted(manifest.documents),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        click.echo(f"{key:18} {', '.join(value) if isinstance(value, list) else value}")


@weights.command()
@click.argument("directory", type=DIRECTORY)
def verify(directory: Path) -> int:
    """Compare every file with the manifest: sizes, tensors, sha256."""
    from swarm.errors import WeightsError
    from swarm.parts import part_of, whole
    from swarm.sepweight.manifest import file_keys, find_faults, present_keys
    from swarm.sepweight.store import Store

    store = Store(directory)
    faults = list(find_faults(directory, store.manifest))
    present = present_keys(directory, store.manifest)
    keys = file_keys(whole(store.manifest.layers))
    for key in present:
        try:
            store.check(part_of([keys.index(key)], store.manifest.layers))
        except WeightsError as error:
            faults.append(str(error))
    for fault in dict.fromkeys(faults):
        click.echo(fault, err=True)
    if faults:
        return EXIT_FAILED
    click.echo(f"{directory}: {len(present)} of {len(store.manifest.files)} parts are here and whole")
    return 0


@weights.command()
@click.argument("spec")
@click.option("--layers", type=click.IntRange(1), required=True, help="How many layers the model has.")
def files(spec: str, layers: int) -> None:
    """Print the file names of a part, for rsync: swarm-weights files "b 0-16" --layers 32."""
    from swarm.parts import parse_part
    from swarm.sepweight.manifest import MANIFEST_NAME, file_keys, file_name

    part = parse_part(spec, layers)
    keys = file_keys(part)
    if part.end and not part.begin:
        keys.append("begin")  # a tied head is stored with the embedding
    for name in [MANIFEST_NAME, *(file_name(key) for key in keys)]:
        click.echo(name)


class _ProgressBar:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(f"{self._verb} {{task.description}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar.start()
        task = self._bar.add_task("", total=None)

        def advance(done: int, total: int, key: str) -> None:
            self._bar.update(task, completed=done, total=total, description=key)

        return advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def main() -> None:
    run(weights)

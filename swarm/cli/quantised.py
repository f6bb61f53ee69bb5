"""Options that ask for smaller weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from swarm.decoder.scheme import Scheme
    from swarm.sepweight.scheme import Quantisation
    from swarm.sepweight.source import Source

Command = TypeVar("Command", bound=Callable[..., Any])
FORMS = "int8, int4 or int4:GROUP (32, 64, 128)"


head_option = click.option(
    "--quantize-head", "head_form", metavar="FORM", help="The head's own form; default: int8, plain leaves it as it is."
)


def quantise_options(command: Command) -> Command:
    """`--quantize` and `--quantize-head`, to be read by `read_quantisation`."""
    layers = click.option("--quantize", "form", metavar="FORM", help=f"Make matrices smaller: {FORMS}.")
    return layers(head_option(command))


def read_quantisation(form: str | None, head_form: str | None) -> Quantisation[Scheme] | None:
    """What is asked for; None where nothing is. Raises RequestError."""
    from swarm.decoder.schemes import quantisation_named
    from swarm.errors import RequestError

    if form is None:
        if head_form is not None:
            raise RequestError(f"--quantize-head {head_form} goes with --quantize")
        return None
    return quantisation_named(form, head_form)


def choose_form(
    source: Source, where: Path, form: str | None, head_form: str | None, other_form: str | None, *, keeps_blocks: bool
) -> tuple[Quantisation[Scheme] | None, bool]:
    """What becomes of a checkpoint's matrices, and whether those that are quantised already stay so.

    form: of --quantize. other_form: of --requantize. Raises RequestError for what does not go together.
    """
    from swarm.errors import RequestError
    from swarm.sepweight.source import QuantisedSource

    is_quantised = isinstance(source, QuantisedSource)
    is_blocks = is_quantised and source.form == "gguf"
    if keeps_blocks and not is_blocks:
        raise RequestError(f"--keep-blocks is for GGUF files; {where} is none")
    if keeps_blocks and (form or other_form):
        raise RequestError(f"--keep-blocks and --quantize {form or other_form} do not go together")
    if other_form is not None and (is_blocks or not is_quantised):
        raise RequestError(f"--requantize is for GPTQ, AWQ and FP8 checkpoints; {where} is none: pass --quantize")
    if is_quantised and not is_blocks:
        if form is not None:
            raise RequestError(
                f"{where} is quantised already; leave --quantize out to keep its numbers, or pass --requantize {form}"
            )
        if source.form is None and other_form is None:
            click.echo(
                f"swarm-weights: there is no form for the numbers of {where}: its matrices become plain; "
                "--requantize int8 makes them smaller",
                err=True,
            )
        return read_quantisation(other_form, head_form), other_form is None
    return read_quantisation(form, head_form), keeps_blocks

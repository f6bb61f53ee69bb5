"""Options that ask for smaller weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from swarm.decoder.scheme import Scheme
    from swarm.sepweight.scheme import Quantisation

Command = TypeVar("Command", bound=Callable[..., Any])
FORMS = "int8, int4 or int4:GROUP (32, 64, 128)"


def quantise_options(command: Command) -> Command:
    """`--quantize` and `--quantize-head`, to be read by `read_quantisation`."""
    head = click.option(
        "--quantize-head", "head_form", metavar="FORM", help="The head's own form; plain leaves it as it is."
    )
    layers = click.option("--quantize", "form", metavar="FORM", help=f"Make matrices smaller: {FORMS}.")
    return layers(head(command))


def read_quantisation(form: str | None, head_form: str | None) -> Quantisation[Scheme] | None:
    """What is asked for; None where nothing is. Raises RequestError."""
    from swarm.decoder.schemes import quantisation_named
    from swarm.errors import RequestError

    if form is None:
        if head_form is not None:
            raise RequestError(f"--quantize-head {head_form} goes with --quantize")
        return None
    return quantisation_named(form, head_form)

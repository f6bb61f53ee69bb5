"""The stored forms that this version computes with: one line for each. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarm.decoder.int4 import GROUPS, Int4Scheme
from swarm.decoder.int8 import INT8
from swarm.decoder.plain import PLAIN
from swarm.decoder.scheme import Scheme
from swarm.errors import RequestError
from swarm.sepweight.manifest import PLAIN_NAME, TensorEntry
from swarm.sepweight.scheme import Quantisation

SCHEMES: Sequence[Scheme] = (PLAIN, INT8, *map(Int4Scheme, GROUPS))
SHORT_NAMES: Mapping[str, str] = {"int4": "int4:64"}


def scheme_named(name: str) -> Scheme:
    """A form by its name. Raises RequestError."""
    for scheme in SCHEMES:
        if scheme.name == SHORT_NAMES.get(name, name):
            return scheme
    raise RequestError(f'"{name}" is no form of matrices; choose {", ".join(one.name for one in SCHEMES)}')


def scheme_of(entries: Mapping[str, TensorEntry], shape: tuple[int, int]) -> Scheme | None:
    """The form in which a matrix [out, in] is stored. entries: its tensors, by what their names end in."""
    for scheme in SCHEMES:
        found = scheme.recognise(entries, shape)
        if found is not None:
            return found
    return None


def quantisation_named(layers: str, head: str | None = None) -> Quantisation[Scheme]:
    """What a user asks for, of both at once where there is a stroke between them. Raises RequestError.

    Where nothing is said of the head, it has eight bits: with four SmolLM2's perplexity is 5.7% worse than with those, and
    with eight no worse than as it is.
    """
    if "/" in layers or layers == PLAIN_NAME:
        return quantisation_in(layers)
    return quantisation_in(f"{layers}/{head or INT8.name}")


def quantisation_in(name: str) -> Quantisation[Scheme]:
    """What a manifest names. Raises RequestError."""
    layers, _, head = name.partition("/")
    return Quantisation(scheme_named(layers), scheme_named(head or layers))


def variant_of(name: str, stored: str, dtype: str) -> str:
    """What models of a quantisation, computed in a dtype, are told apart by: two of a variant give the same answers.

    stored: the dtype in which matrices were before they were quantised.
    """
    if name == PLAIN_NAME:
        return dtype
    return f"{name}-{dtype}" if stored == dtype else f"{name}-{stored}-{dtype}"

"""The stored forms that this version computes with: one line for each. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.decoder.int8 import INT8
from swarm.decoder.plain import PLAIN
from swarm.decoder.scheme import Scheme
from swarm.errors import WeightsError

SCHEMES: Sequence[Scheme] = (PLAIN, INT8)


def scheme_named(name: str, where: object) -> Scheme:
    """The form that a manifest names. where: what holds the weights, for the message. Raises WeightsError."""
    for scheme in SCHEMES:
        if scheme.name == name:
            return scheme
    known = ", ".join(scheme.name for scheme in SCHEMES)
    raise WeightsError(f'{where} stores its matrices as "{name}"; this version reads {known}')

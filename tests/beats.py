"""Beats as tests write them: what a test says nothing of is as plain as can be."""

from __future__ import annotations

from typing import Any

from swarm.messages.members import Beat, Claim

PLAIN: dict[str, Any] = {
    "incarnation": 1,
    "sequence": 1,
    "addresses": [],
    "device": "cpu",
    "memory_total": 1,
    "memory_free": 1,
    "tick": 1,
}


def make_beat(name: str = "a", *claims: Claim, **figures: Any) -> Beat:
    """A beat of the node whose id is `name`, one letter, sixteen times; `figures` are further fields of the message."""
    return Beat(**{**PLAIN, "node": name * 16, "name": name, "claims": list(claims), **figures})

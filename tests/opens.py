"""What a client would open a session with."""

from __future__ import annotations

from typing import Any

from swarm.messages.sampling import Sampling
from swarm.messages.sessions import Open, Tail
from swarm.testing.integer_model import MODEL_ID

SESSION = "5" * 32


def make_open(part: str, **changes: Any) -> Open:
    """An open of one hop of a chain that lies on one node as a whole; changes: of the message's fields."""
    positions = changes.get("positions", 50)
    told: dict[str, Any] = {
        "session": SESSION,
        "attempt": 1,
        "stage": 0,
        "model": MODEL_ID,
        "part": part,
        "previous": "a" * 16,
        "next": "a" * 16,
        "next_part": part,
        "positions": positions,
        "keep": 0,
        "is_first": part[0] in "bf",
        "tail": Tail(sampling=Sampling(), stop_ids=[], limit=positions) if part[-1] in "ef" else None,
    }
    return Open(**{**told, **changes})

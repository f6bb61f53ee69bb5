"""Which sessions share a call of attention. Pure.

Where layers are small a call costs more than what it computes, so sessions that decode share one if they take equally many
keys. Each has the bits then that it has alone, for no row of a product meets another's. Their keys and values are brought
together for it. Sixteen sessions in a layer of SmolLM2 (µs, bfloat16, AMD EPYC without AVX-512), in calls of their own and
shared: 1,770 and 610 behind 128 tokens, 3,130 and 2,180 behind 512, 4,660 and 4,160 behind 1,024.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_OWN_BYTES = 1 << 19  # of a session's keys and values in a layer: to bring more together takes longer than a call
MOST_SHARED_BYTES = 1 << 20  # of all that share a call


def share_calls(keys: Sequence[int], key_bytes: int) -> list[list[int]]:
    """Spans by call. keys: that each span takes, 0 if it cannot share. key_bytes: of a key and its value."""
    alike: dict[int, list[int]] = {}
    shared: list[list[int]] = []
    for span, count in enumerate(keys):
        if 0 < count * key_bytes <= MOST_OWN_BYTES:
            alike.setdefault(count, []).append(span)
        else:
            shared.append([span])
    for count, spans in alike.items():
        calls = -(-len(spans) // (MOST_SHARED_BYTES // (count * key_bytes)))
        shared += [spans[len(spans) * at // calls : len(spans) * (at + 1) // calls] for at in range(calls)]
    return sorted(shared)

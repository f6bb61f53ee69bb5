"""Each reason for which a session may not be opened, alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from swarm.messages.sampling import Sampling
from swarm.messages.sessions import Open, Tail
from swarm.messages.tensors import ids_tensor
from swarm.models import ModelKey
from swarm.node.batches import ServedPart
from swarm.node.hops.admission import Request, judge
from swarm.node.hops.hop import HopSession
from swarm.parts import NOTHING, parse_part
from swarm.wire.events import Asker

SERVED = ServedPart(
    model=ModelKey("1" * 32, "bfloat16"),
    part=parse_part("4-8 e", 8),
    layers=8,
    context=100,
    vocabulary=50,
    hidden=4,
    dtypes=("float32",),
    cache_bytes=1,
    cache_block=1,
    kv_capacity=1000,
    layer_seconds=0.1,
    end_seconds=0.1,
    prompt_seconds=0.1,
)
ORDER = Open(
    session="5" * 32,
    attempt=2,
    stage=1,
    model=SERVED.model.id,
    part="4-8 e",
    previous="a" * 16,
    next="a" * 16,
    next_part="b 0-4",
    positions=10,
    keep=0,
    is_first=False,
    tail=Tail(sampling=Sampling(), stop_ids=[], limit=10),
)
REQUEST = Request(
    asker=Asker("c" * 16, "control", b""),
    order=ORDER,
    part=parse_part(ORDER.part, 8),
    tensor=ids_tensor([1, 2, 3]),
    served=SERVED,
    mine=(),
    goes_on=False,
    draining=NOTHING,
    is_leaving=False,
    is_closed=False,
    has_place=True,
    most_sessions=256,
    needed=40,
    most_kv=1000,
)


def hop_of(owner: str, attempt: int) -> HopSession:
    order = structs.replace(ORDER, attempt=attempt)
    return HopSession(order=order, owner=owner, model=SERVED.model, part=REQUEST.part, lease=1.0, used=0.0)


def test_a_session_that_nothing_speaks_against_may_be_opened() -> None:
    assert judge(REQUEST) is None


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"part": parse_part("3-8 e", 8)}, "NOT_SERVING"),
        ({"part": parse_part("4-5 6-8 e", 8)}, "NOT_SERVING"),
        ({"draining": parse_part("7-8", 8)}, "NOT_SERVING"),
        ({"part": parse_part("4-8", 8)}, "BAD_MESSAGE"),
        ({"order": structs.replace(ORDER, is_first=True)}, "BAD_MESSAGE"),
        ({"is_leaving": True}, "LEAVING"),
        ({"is_closed": True}, "CLOSED"),
        ({"mine": [hop_of("d" * 16, 1)]}, "NOT_OWNER"),
        ({"mine": [hop_of("c" * 16, 3)]}, "STALE"),
        ({"has_place": False}, "OVERLOADED"),
        ({"order": structs.replace(ORDER, positions=101)}, "TOO_LONG"),
        ({"needed": 1001}, "TOO_LONG"),
        ({"tensor": None}, "BAD_MESSAGE"),
        ({"tensor": ids_tensor([50])}, "BAD_MESSAGE"),
    ],
)
def test_each_reason_refuses_with_its_code(changed: dict[str, object], code: str) -> None:
    refusal = judge(replace(REQUEST, **changed))  # type: ignore[arg-type]
    assert refusal is not None
    assert (refusal.code, refusal.session, refusal.stage) == (code, ORDER.session, ORDER.stage)


def test_a_session_that_goes_on_here_may_stay_while_the_node_leaves_or_drops() -> None:
    leaving = replace(REQUEST, goes_on=True, is_leaving=True, draining=parse_part("7-8", 8))
    assert judge(leaving) is None

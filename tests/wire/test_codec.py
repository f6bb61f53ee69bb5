"""What comes over the wire is one of our messages, within its bounds, or it is refused."""

from __future__ import annotations

import pickle

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.messages.members import Beat, Claim, Hello
from swarm.messages.steps import Steps, StepSpan, Tokens
from swarm.messages.tensors import WireTensor, ids_of, ids_tensor
from swarm.wire.codec import FRAME_LIMIT, SMALLEST_FRAME, WireError, decode, encode

HELLO = Hello(node="a" * 16, kind="node", incarnation=5)
BEAT = Beat(
    node="a" * 16,
    incarnation=1,
    sequence=2,
    name="n",
    addresses=["127.0.0.1:7700"],
    device="cpu",
    memory_total=10,
    memory_free=5,
    tick=3,
    claims=[Claim(model="1" * 32, name="m", layers=12, part="b 0-4", state="serving", layer_seconds=0.25)],
    rtts={"b" * 16: 0.001},
)


def raw(message: object, tensor: object = None) -> list[bytes]:
    return [b"\x01" + msgpack.packb([message, tensor])]


def test_messages_come_back_as_they_were() -> None:
    for message in (HELLO, BEAT, Tokens(session="5" * 32, attempt=1, index=3, ids=[1, 2], finish="stop")):
        assert decode(encode(message)) == (message, None)


@given(st.lists(st.integers(0, (1 << 24) - 1), min_size=1, max_size=50))
def test_token_ids_come_back_as_they_were(ids: list[int]) -> None:
    steps = Steps(model="1" * 32, part="b 0-4", spans=[StepSpan("5" * 32, 1, 0, 0, len(ids), True)])
    message, tensor = decode([bytes(frame) for frame in encode(steps, ids_tensor(ids))])
    assert message == steps
    assert tensor is not None
    assert ids_of(tensor) == ids


def test_a_large_tensor_travels_in_pieces() -> None:
    data = bytes(range(256)) * 10_000
    frames = encode(HELLO, WireTensor("uint8", (len(data),), data))
    assert [len(frame) for frame in frames[1:]] == [FRAME_LIMIT, FRAME_LIMIT, len(data) - 2 * FRAME_LIMIT]
    _, tensor = decode(frames)
    assert tensor is not None
    assert bytes(tensor.data) == data


def test_rows_are_views_of_the_same_tensor() -> None:
    tensor = WireTensor("int32", (3, 2), ids_tensor([1, 2, 3, 4, 5, 6]).data)
    part = tensor.rows(1, 3)
    assert part.shape == (2, 2)
    assert ids_of(WireTensor("int32", (4,), part.data)) == [3, 4, 5, 6]


GOOD = {"type": "hello", "node": "a" * 16, "kind": "node", "incarnation": 5}


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\x01"],
        [b"\x01not msgpack \xc1"],
        [pickle.dumps({"node": "a" * 16})],
        [b"\x01" + b"\x91" * 60_000],  # nested arrays: 60,000 deep
        [b"\x01" + b"\x81\xa1a" * 20_000],  # nested maps
        [b"\x01" + bytes(70_000)],
        [b"\x01" + b"\xdd\x7f\xff\xff\xff"],  # an array that claims two billion entries
        raw({"type": "no such type"}),
        raw({**GOOD, "node": "A" * 16}),
        raw({**GOOD, "node": "a" * 17}),
        raw({**GOOD, "kind": "king"}),
        raw({**GOOD, "incarnation": -1}),
        raw({**GOOD, "incarnation": 1 << 60}),
        raw({**GOOD, "incarnation": "5"}),
        raw({"type": "renew"}),
        raw({"type": "tokens", "session": "5" * 32, "attempt": 1, "index": 0, "ids": [1 << 30]}),
        raw({**GOOD}, ["float32", [2, 2]]),  # a tensor without bytes
        [*raw({**GOOD}, ["float32", [2, 2]]), bytes(15)],
        [*raw({**GOOD}, ["float32", [-2, -2]]), bytes(16)],
        [*raw({**GOOD}, ["object", [2, 2]]), bytes(16)],
        [*raw({**GOOD}, ["uint8", [1 << 23, 1 << 23, 1 << 23]]), bytes(16)],
        [*raw({**GOOD}), b"a frame without a tensor"],
        [*raw({**GOOD}, ["uint8", [2000]]), *([b"x"] * 2000)],
    ],
)
def test_anything_else_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(WireError) as caught:
        decode(frames)
    assert caught.value.code == ("BAD_VERSION" if frames and frames[0][:1] not in (b"", b"\x01") else "BAD_MESSAGE")


def test_another_version_is_named() -> None:
    with pytest.raises(WireError, match="protocol version 2; this node speaks 1") as caught:
        decode([b"\x02" + msgpack.packb([GOOD, None])])
    assert caught.value.code == "BAD_VERSION"


def test_unknown_fields_are_ignored() -> None:
    assert decode(raw({**GOOD, "colour": "blue"})) == (HELLO, None)


def test_a_number_that_is_none_is_refused() -> None:
    fields = {name: getattr(BEAT, name) for name in BEAT.__struct_fields__ if name != "claims"}
    for number in (float("nan"), float("inf"), -1.0):
        with pytest.raises(WireError, match="layer_seconds"):
            decode(raw({"type": "beat", **fields, "layer_seconds": number}))


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_raise_wire_error(data: bytes) -> None:
    for frames in ([data], [b"\x01" + data], [b"\x01" + data, data]):
        try:
            decode(frames)
        except WireError:
            continue


def test_a_slow_link_gets_small_frames() -> None:
    data = bytes(range(256)) * 2048
    frames = encode(HELLO, WireTensor("uint8", (len(data),), data), SMALLEST_FRAME)
    assert [len(frame) for frame in frames[1:]] == [SMALLEST_FRAME] * (len(data) // SMALLEST_FRAME)
    assert decode(frames)[1] == WireTensor("uint8", (len(data),), data)

"""A real node under nonsense on its sockets: it refuses, counts, slows the sender, and serves everyone else."""

from __future__ import annotations

import time

import msgpack
import psutil
import pytest
import zmq

from swarm.errors import AccessError, PeerError
from swarm.keys import derive_keys
from swarm.messages.members import Hello, PeerPage
from swarm.messages.sessions import Refused
from swarm.testing.integer_model import IntegerModel
from swarm.wire.codec import encode
from swarm.wire.penalties import Penalties
from tests.hostile import Raw
from tests.swarms import client_of, generate, integer_swarm, open_client

MODEL = IntegerModel()
PROMPT = [3, 1, 4]


def test_nonsense_is_answered_counted_and_slows_its_sender_alone() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes, client_of(nodes) as swarm:
        raw = Raw(nodes[0].address)
        raw.send([b"nonsense"])
        message = raw.receive()
        assert isinstance(message, Refused)
        assert message.code == "BAD_VERSION"
        for _ in range(3):
            raw.send([b"\x01" + msgpack.packb([{"type": "renew"}, None])])
        raw.socket.setsockopt(zmq.RCVTIMEO, 300)
        with pytest.raises(zmq.Again):  # muted by now
            raw.ask_peers()
        assert generate(swarm, PROMPT, 16) == MODEL.answer(PROMPT, 16)
        assert nodes[0].process._listener.penalties.total >= 1
        raw.close()


def test_a_hello_under_another_id_is_refused() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes:
        raw = Raw(nodes[0].address)
        raw.send([bytes(frame) for frame in encode(Hello(node="a" * 16, kind="node", incarnation=1))])
        message = raw.receive()
        assert isinstance(message, Refused)
        assert "the key is that of" in message.message
        raw.close()


def test_a_message_of_very_many_parts_costs_nobody_else_anything() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes, client_of(nodes) as swarm:
        raw = Raw(nodes[0].address)
        before = psutil.Process().memory_info().rss
        raw.send([b""] * 200_000)
        assert generate(swarm, PROMPT, 16) == MODEL.answer(PROMPT, 16)
        deadline = time.monotonic() + 20
        while nodes[0].process._listener.penalties.total == 0:
            assert time.monotonic() < deadline
            assert generate(swarm, PROMPT, 4) == MODEL.answer(PROMPT, 4)
        assert psutil.Process().memory_info().rss - before < 200 << 20
        raw.close()


def test_both_sockets_survive_random_frames_while_an_answer_runs() -> None:
    rng = __import__("random").Random(5)
    with integer_swarm(MODEL, ["b 0-6", "6-12 e"]) as nodes, client_of(nodes) as swarm:
        members = [Raw(node.address, offset) for node in nodes for offset in (0, 1)]
        for _ in range(50):
            for member in members:
                member.send([rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 4))])
        assert generate(swarm, PROMPT, 64) == MODEL.answer(PROMPT, 64)
        for member in members:
            member.close()


def test_another_secret_gets_a_plain_error_and_the_swarm_is_unharmed() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes:
        with (
            client_of(nodes, derive_keys(b"x" * 32)) as stranger,
            pytest.raises(AccessError, match="wrong swarm secret, or not a swarm"),
        ):
            stranger.find_model(None, 5)
        with client_of(nodes) as swarm:
            assert generate(swarm, PROMPT, 8) == MODEL.answer(PROMPT, 8)


def test_without_its_gatekeeper_a_node_lets_nobody_in_and_serves_those_who_are() -> None:
    """The ZAP handler is gone, as if it had died: no handshake is finished without it."""
    model = IntegerModel(layer_seconds=0.003)
    with integer_swarm(model, ["b 0-6", "6-12 e"]) as nodes, client_of(nodes) as swarm:
        generate(swarm, PROMPT, 2)
        for node in nodes:
            node.process._listener._zap.unbind("inproc://zeromq.zap.01")
        started = time.monotonic()
        with (
            open_client([node.address for node in nodes]) as newcomer,
            pytest.raises((AccessError, PeerError), match="wrong swarm secret, or not a swarm"),
        ):
            newcomer.find_model(None, 6)
        print(f"a newcomer is refused after {time.monotonic() - started:.1f} s")
        assert generate(swarm, PROMPT, 32) == model.answer(PROMPT, 32)
        for node in nodes:
            node.process._listener._zap.bind("inproc://zeromq.zap.01")
        with open_client([node.address for node in nodes]) as newcomer:
            assert generate(newcomer, PROMPT, 8) == model.answer(PROMPT, 8)


def test_a_member_sees_the_peer_table() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes:
        raw = Raw(nodes[0].address)
        page = raw.ask_peers()
        assert isinstance(page, PeerPage)
        assert [beat.node for beat in page.nodes] == [nodes[0].node]
        raw.close()


def test_penalties_double_and_are_forgiven() -> None:
    penalties = Penalties()
    assert not penalties.is_muted("a", 0.0)
    penalties.note("a", 0.0)
    assert penalties.is_muted("a", 0.4)
    assert not penalties.is_muted("a", 0.6)
    penalties.note("a", 1.0)
    assert penalties.is_muted("a", 1.9)
    penalties.note("a", 200.0)
    assert not penalties.is_muted("a", 200.6)
    assert not penalties.is_muted("b", 0.1)

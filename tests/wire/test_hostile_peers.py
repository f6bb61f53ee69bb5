"""A real node under nonsense on its sockets: it refuses, counts, slows the sender, and serves everyone else."""

from __future__ import annotations

import time

import msgpack
import psutil
import pytest
import zmq

from swarm.errors import AccessError, PeerError
from swarm.keys import derive_keys, new_identity
from swarm.messages import AskPeers, Hello, PeerPage, Refused
from swarm.testing.integer_model import IntegerModel
from swarm.wire.codec import decode, encode
from swarm.wire.penalties import Penalties
from swarm.wire.sockets import make_dealer
from tests.swarms import KEYS, IntegerNode, client_of, generate, integer_swarm

MODEL = IntegerModel()
PROMPT = [3, 1, 4]


class Raw:
    """A member that sends whatever it likes."""

    def __init__(self, node: IntegerNode, port_offset: int = 0) -> None:
        self.context = zmq.Context()
        self.identity = new_identity()
        self.socket = make_dealer(self.context, KEYS, self.identity)
        self.socket.setsockopt(zmq.IMMEDIATE, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, 5000)
        self.socket.setsockopt(zmq.RCVTIMEO, 3000)
        host, _, port = node.address.rpartition(":")
        self.socket.connect(f"tcp://{host}:{int(port) + port_offset}")

    def send(self, frames: list[bytes]) -> None:
        self.socket.send_multipart(frames)

    def ask_peers(self) -> object:
        self.socket.send_multipart(encode(AskPeers()))
        return decode(self.socket.recv_multipart())[0]

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


def test_nonsense_is_answered_counted_and_slows_its_sender_alone() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes, client_of(nodes) as swarm:
        raw = Raw(nodes[0])
        raw.send([b"nonsense"])
        message, _ = decode(raw.socket.recv_multipart())
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
        raw = Raw(nodes[0])
        raw.send([bytes(frame) for frame in encode(Hello(node="a" * 16, kind="node", incarnation=1))])
        message, _ = decode(raw.socket.recv_multipart())
        assert isinstance(message, Refused)
        assert "the key is that of" in message.message
        raw.close()


def test_a_message_of_very_many_parts_costs_nobody_else_anything() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes, client_of(nodes) as swarm:
        raw = Raw(nodes[0])
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
        members = [Raw(node, offset) for node in nodes for offset in (0, 1)]
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
            pytest.raises((AccessError, PeerError), match="wrong swarm secret, or not a swarm"),
        ):
            stranger.find_model(None, 5)
        with client_of(nodes) as swarm:
            assert generate(swarm, PROMPT, 8) == MODEL.answer(PROMPT, 8)


def test_a_member_sees_the_peer_table() -> None:
    with integer_swarm(MODEL, ["f"]) as nodes:
        raw = Raw(nodes[0])
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

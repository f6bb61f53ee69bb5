"""What should not be on a LAN, as processes of their own: `python -m tests.hostile WHAT HOST COUNT [HOST:PORT …]`.

WHAT: stranger (a client with another secret), old (a member that speaks another version), nonsense (a member that sends
COUNT random messages to both sockets of each node), knocks (COUNT connections at a time that say nothing), adverts (COUNT
mDNS records of nodes that are not there). Prints one line of JSON: what came of it and how long it took.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import zmq
from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSService, DNSText, const

from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.discovery.lan import SERVICE, TTL_SECONDS
from swarm.errors import SwarmError
from swarm.keys import derive_keys, new_identity
from swarm.messages.base import PROTOCOL
from swarm.messages.members import AskPeers
from swarm.wire.codec import decode, encode
from swarm.wire.sockets import make_dealer
from tests.swarms import KEYS

KNOCKING_SECONDS = 8.0
RECORDS_A_SECOND = 100
MULTICAST = ("224.0.0.251", 5353)


class Raw:
    """A member that sends whatever it likes."""

    def __init__(self, address: str, port_offset: int = 0) -> None:
        self.context = zmq.Context()
        self.identity = new_identity()
        self.socket = make_dealer(self.context, KEYS, self.identity)
        self.socket.setsockopt(zmq.IMMEDIATE, 0)
        self.socket.setsockopt(zmq.LINGER, 0)  # a test that fails leaves it to the garbage collector, which would wait
        self.socket.setsockopt(zmq.SNDTIMEO, 5000)
        self.socket.setsockopt(zmq.RCVTIMEO, 3000)
        host, _, port = address.rpartition(":")
        self.socket.connect(f"tcp://{host}:{int(port) + port_offset}")

    def send(self, frames: Sequence[bytes]) -> None:
        self.socket.send_multipart(frames)

    def receive(self) -> object:
        """The next message of the protocol."""
        return decode(self.socket.recv_multipart())[0]

    def ask_peers(self) -> object:
        self.socket.send_multipart(encode(AskPeers()))
        return self.receive()

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


def be_stranger(host: str, addresses: Sequence[str]) -> str:
    settings = ClientSettings(hosts=[host], peers=addresses, use_mdns=False)
    with SwarmClient(settings, derive_keys(b"x" * 32), new_identity()) as client:
        try:
            return client.find_model(None, 5)
        except SwarmError as error:
            return str(error)


def speak_another_version(address: str) -> str:
    raw = Raw(address)
    (header,) = encode(AskPeers())
    raw.send([bytes([PROTOCOL + 1]) + bytes(header)[1:]])
    answer = raw.receive()
    raw.close()
    return str(answer)


def send_nonsense(count: int, addresses: Sequence[str]) -> str:
    rng = random.Random(5)
    members = [Raw(address, offset) for address in addresses for offset in (0, 1)]
    for _ in range(count):
        for member in members:
            first = bytes([PROTOCOL]) if rng.random() < 0.5 else b""
            member.send([first + rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 4))])
    for member in members:
        member.close()
    return f"{count * len(members)} messages"


def knock(count: int, addresses: Sequence[str]) -> str:
    """Connections that never say a word, as many as are let in, opened again as they are closed."""
    until = time.monotonic() + KNOCKING_SECONDS
    opened = 0
    targets = [(host, int(port)) for host, _, port in (address.rpartition(":") for address in addresses)]
    with selectors.DefaultSelector() as selector:
        while time.monotonic() < until:
            while len(selector.get_map()) < count:
                one = socket.socket()
                one.setblocking(False)
                with suppress(BlockingIOError):
                    one.connect(targets[opened % len(targets)])
                selector.register(one, selectors.EVENT_READ)
                opened += 1
            for key, _ in selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                with suppress(OSError):
                    if key.fileobj.recv(100):
                        continue  # a greeting: the other side waits for ours
                selector.unregister(key.fileobj)
                key.fileobj.close()
        for key in list(selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
    return f"{opened} connections"


def announce(host: str, count: int, addresses: Sequence[str]) -> str:
    """Records with the swarm's own tag, which anyone can read off the LAN: nobody there, real hosts, and nonsense."""
    rng = random.Random(7)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
    hosts = [address.rpartition(":")[0] for address in addresses] + [f"10.77.0.{number}" for number in range(100, 250)]
    started = time.monotonic()
    for number in range(count):
        node = f"{rng.getrandbits(64):016x}"
        name, server = f"{node}.{SERVICE}", f"swarm-{node}.local."
        text = f"id={node}", f"tag={KEYS.tag}", f"mem={'9' * rng.randrange(1, 90)}", f"v={rng.choice(['1', '-1', '²'])}"
        packed = b"".join(bytes([len(item.encode())]) + item.encode() for item in text)
        unique = const._CLASS_IN | const._CLASS_UNIQUE
        records = [
            DNSPointer(SERVICE, const._TYPE_PTR, const._CLASS_IN, TTL_SECONDS, name),
            DNSService(name, const._TYPE_SRV, unique, TTL_SECONDS, 0, 0, rng.randrange(1, 65536), server),
            DNSText(name, const._TYPE_TXT, unique, TTL_SECONDS, packed if rng.random() < 0.9 else b"\xff\x00"),
            DNSAddress(server, const._TYPE_A, unique, TTL_SECONDS, socket.inet_aton(rng.choice(hosts))),
        ]
        outgoing = DNSOutgoing(const._FLAGS_QR_RESPONSE | const._FLAGS_AA)
        for record in records if number % 5 else records[:1]:  # some names come without anything to them
            outgoing.add_answer_at_time(record, 0)
        for packet in outgoing.packets():
            sender.sendto(packet, MULTICAST)
        time.sleep(max(0.0, started + (number + 1) / RECORDS_A_SECOND - time.monotonic()))
    return f"{count} records"


def main(what: str, host: str, count: str, *addresses: str) -> None:
    """Do it, and say what came of it."""
    started = time.monotonic()
    match what:
        case "stranger":
            result = be_stranger(host, addresses)
        case "old":
            result = speak_another_version(addresses[0])
        case "nonsense":
            result = send_nonsense(int(count), addresses)
        case "knocks":
            result = knock(int(count), addresses)
        case "adverts":
            result = announce(host, int(count), addresses)
        case _:
            raise SystemExit(f"what is {what}?")
    print(json.dumps({"result": result, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

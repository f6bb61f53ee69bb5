"""Hosts for tests: network namespaces on a bridge that has a namespace of its own. Nothing leaves them."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.processes import ENTER

_numbers = itertools.count()  # of the LANs that this process has made, none of which sees another
REASON = "needs root and iproute2: hosts are network namespaces"


def is_possible() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Host:
    """A namespace with one interface, eth0."""

    name: str
    address: str
    bridge: str
    port: str  # its end of the cable in the bridge
    files: int = 0  # that a process there may have open; 0: as usual

    @property
    def prefix(self) -> list[str]:
        """Put before a command, it runs there."""
        limit = ["prlimit", f"--nofile={self.files}:{self.files}"] if self.files else []
        return [*ENTER, self.name, *limit]

    def cut(self) -> None:
        """Pull the cable: what is under way is lost, and no connection hears of it."""
        ip("-n", self.bridge, "link", "set", self.port, "down")

    def lose(self, other: Host) -> None:
        """Nothing that this host sends to the other arrives any more; what the other sends does."""
        nowhere = ["lladdr", "02:00:00:00:00:fe", "dev", "eth0", "nud", "permanent"]
        ip("-n", self.name, "neighbour", "replace", other.address, *nowhere)

    def find(self, other: Host) -> None:
        """What `lose` did is over."""
        ip("-n", self.name, "neighbour", "delete", other.address, "dev", "eth0")

    def reset(self, other: Host) -> None:
        """Break every TCP connection that this host has to the other, as a router or a firewall may."""
        subprocess.run([*self.prefix, "ss", "-K", "dst", other.address], check=True, capture_output=True)

    def block_multicast(self) -> None:
        """The bridge passes no multicast on to this host, as many Wi-Fi networks do."""
        ip("-n", self.bridge, "link", "set", self.port, "type", "bridge_slave", "mcast_flood", "off")

    def limit(self, rate: str) -> None:
        """Let no more than `rate` (as tc writes it: 16mbit) leave this host."""
        shape = ["tbf", "rate", rate, "burst", "8kb", "latency", "400ms"]
        command = [*self.prefix, "tc", "qdisc", "add", "dev", "eth0", "root", *shape]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def lan(count: int) -> Iterator[Sequence[Host]]:
    """`count` hosts, 10.77.0.1 and up, on one bridge."""
    tag = f"sw{os.getpid() % 100000}x{next(_numbers)}"
    bridge = f"{tag}br"
    hosts = [Host(f"{tag}h{number}", f"10.77.0.{number}", bridge, f"p{number}") for number in range(1, count + 1)]
    made: list[str] = []
    try:
        ip("netns", "add", bridge)
        made.append(bridge)
        ip("-n", bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        ip("-n", bridge, "link", "set", "br0", "up")
        for host in hosts:
            ip("netns", "add", host.name)
            made.append(host.name)
            ip("-n", bridge, "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            ip("-n", bridge, "link", "set", host.port, "master", "br0", "up")
            ip("-n", host.name, "link", "set", "lo", "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.name, "link", "set", "eth0", "up")
            ip("-n", host.name, "route", "add", "default", "dev", "eth0")
        yield hosts
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

"""Adverts over mDNS: says that this node is here, and where others may be. A hint is all that an advert ever is.

zeroconf works on threads of its own; what it sees is handed to a callback. Explicit interfaces only.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore

import psutil
from zeroconf import ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from swarm.messages.base import PROTOCOL

SERVICE = "_swarm._tcp.local."
VIRTUAL = ("docker", "veth", "virbr", "br-", "lo", "tun", "tap", "cni", "flannel")
TTL_SECONDS = 120
RESOLVE_MS = 2000
MOST_RESOLVED = 16  # at a time

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Advert:
    """What a node says over mDNS."""

    node: str
    name: str
    addresses: tuple[str, ...]  # HOST:PORT of its control socket
    tag: str
    version: int = PROTOCOL
    memory_free: int = 0
    model: str = ""
    part: str = ""
    is_demo: bool = False  # of a swarm that is gone in a moment: nobody should join it, or wonder at its secret


def lan_hosts() -> list[str]:
    """This machine's IPv4 addresses on real interfaces that are up, or loopback where there is none."""
    statistics = psutil.net_if_stats()
    hosts = [
        address.address
        for interface, addresses in sorted(psutil.net_if_addrs().items())
        if statistics.get(interface) is not None and statistics[interface].isup and not interface.startswith(VIRTUAL)
        for address in addresses
        if address.family == socket.AF_INET
    ]
    return hosts or ["127.0.0.1"]


class Lan:
    """mDNS on some of this machine's addresses."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Raises OSError if multicast cannot be used there."""
        self._zeroconf = Zeroconf(interfaces=list(hosts))
        self._browser: ServiceBrowser | None = None
        self._info: ServiceInfo | None = None
        # zeroconf announces for over a second before a call returns; callers have no such time.
        self._announcer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="advert")
        # Names without records take seconds to ask for, and anyone can announce any number of them.
        self._resolver = ThreadPoolExecutor(max_workers=4, thread_name_prefix="resolve")
        self._resolving = BoundedSemaphore(MOST_RESOLVED)

    def browse(self, on_seen: Callable[[Advert], None]) -> None:
        """Call `on_seen`, on a thread of zeroconf's or our own, for each advert that appears or changes."""

        def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
            if state_change is ServiceStateChange.Removed:
                return
            info = ServiceInfo(service_type, name)
            if info.load_from_cache(zeroconf):  # an announcement brings all its records along
                tell(info)
            elif self._resolving.acquire(blocking=False):  # else this one is left: it, or we, will be seen by others
                self._resolver.submit(resolve, info)

        def resolve(info: ServiceInfo) -> None:
            try:
                if info.request(self._zeroconf, RESOLVE_MS):
                    tell(info)
            finally:
                self._resolving.release()

        def tell(info: ServiceInfo) -> None:
            advert = read_advert(info)
            if advert is not None:
                on_seen(advert)

        self._browser = ServiceBrowser(self._zeroconf, SERVICE, handlers=[changed])

    def advertise(self, advert: Advert) -> None:
        """Say (or say anew) who is here; returns at once, the announcement goes out by itself."""
        self._announcer.submit(self._announce, advert)

    def _announce(self, advert: Advert) -> None:
        info = _make_info(advert)
        try:
            if self._info is None:
                self._zeroconf.register_service(info, ttl=TTL_SECONDS, cooperating_responders=True)
            else:
                self._zeroconf.update_service(info)
            self._info = info
        except Exception:  # zeroconf raises its own kinds on a dying network; beats go on without adverts
            log.warning("advert failed node=%s", advert.node, exc_info=True)

    def close(self) -> None:
        """Say goodbye and stop."""
        self._announcer.shutdown(wait=True, cancel_futures=True)
        self._resolver.shutdown(wait=False, cancel_futures=True)
        try:
            if self._info is not None:
                self._zeroconf.unregister_service(self._info)
        finally:
            self._zeroconf.close()


def _make_info(advert: Advert) -> ServiceInfo:
    hosts = [address.rpartition(":") for address in advert.addresses]
    return ServiceInfo(
        SERVICE,
        f"{advert.node}.{SERVICE}",
        addresses=[socket.inet_aton(host) for host, _, _ in hosts],
        port=int(hosts[0][2]),
        server=f"swarm-{advert.node}.local.",
        properties={
            "id": advert.node,
            "name": advert.name[:48],
            "v": str(advert.version),
            "tag": advert.tag,
            "mem": str(advert.memory_free),
            "model": advert.model[:48],
            "part": advert.part[:48],
            **({"demo": "1"} if advert.is_demo else {}),
        },
    )


def read_advert(info: ServiceInfo) -> Advert | None:
    """The advert in a record, or None if it is not one of ours; believes nothing but where to knock."""
    texts: dict[str, str] = {}
    for key, value in info.properties.items():
        if value is not None and len(value) <= 100:
            texts[key.decode("ascii", "replace")] = value.decode("utf-8", "replace")
    hosts = [host for host in info.parsed_addresses() if _is_ipv4(host)][:8]
    node, tag = texts.get("id", ""), texts.get("tag", "")
    if len(node) != 16 or len(tag) != 8 or not info.port or not hosts:
        return None
    return Advert(
        node=node,
        name=texts.get("name", ""),
        addresses=tuple(f"{host}:{info.port}" for host in hosts),
        tag=tag,
        version=int(texts["v"]) if texts.get("v", "").isdecimal() else 0,
        memory_free=int(texts["mem"]) if texts.get("mem", "").isdecimal() else 0,
        model=texts.get("model", ""),
        part=texts.get("part", ""),
        is_demo=texts.get("demo") == "1",
    )


def _is_ipv4(host: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(host), ipaddress.IPv4Address)
    except ValueError:
        return False

"""Who may ask: a key, where one is set, and no page of another site. Pure.

A page elsewhere can have a browser ask servers that only it can reach, by their addresses, or by a name of its own that it
lets point here. The first tells its origin, the second a host that is not ours; an address is never a name of theirs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence

from swarm.gateway.failures import Failure


class Access:
    """What a request has to show."""

    def __init__(self, key: bytes | None, names: Sequence[str]) -> None:
        """key: None lets everybody in. names: by which this server may be called, besides its addresses."""
        self._digest = None if key is None else hashlib.sha256(key).digest()
        self._names = frozenset(name.lower().encode() for name in names)

    def check(self, headers: Iterable[tuple[bytes, bytes]], *, is_open: bool) -> None:
        """Raise Failure unless a request may be answered. headers: names in small letters. is_open: without a key, too."""
        told = dict(headers)
        host = told.get(b"host", b"").lower()
        name = host[: host.find(b"]") + 1] if host.startswith(b"[") else host.partition(b":")[0]
        if name not in self._names and not _is_address(name):
            raise Failure(403, f'Host "{_shown(name)}" is not this server; pass --allow-host NAME if it is')
        origin = told.get(b"origin")
        if origin is not None and origin.lower().partition(b"://")[2] != host:
            raise Failure(403, f'a page of "{_shown(origin)}" may not ask this server')
        if self._digest is not None and not is_open:
            given = hashlib.sha256(_given_key(told)).digest()
            if not hmac.compare_digest(given, self._digest):
                raise Failure(401, "wrong API key: send it as Authorization: Bearer KEY, or x-api-key: KEY")


def _is_address(name: bytes) -> bool:
    try:
        ipaddress.ip_address(name.decode("ascii").strip("[]"))
    except ValueError:
        return False
    return True


def _shown(told: bytes) -> str:
    return told.decode("latin-1")[:100]


def _given_key(headers: dict[bytes, bytes]) -> bytes:
    """By whichever way it came; a browser sends it as a password, to whatever name."""
    kind, _, told = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer" and told.strip():
        return told.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(told, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return headers.get(b"x-api-key", b"")

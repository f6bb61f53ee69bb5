"""Who may ask: a key, where one is set, and no page of another site. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence

from swarm.gateway.failures import Failure

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Access:
    """What a request has to show."""

    def __init__(self, key: str | None, names: Sequence[str] | None) -> None:
        """key: None lets everybody in. names: by which this server may be called, port apart; None: by any."""
        self._digest = None if key is None else hashlib.sha256(key.encode()).digest()
        self._names = None if names is None else frozenset(name.encode() for name in names)

    def check(self, headers: Iterable[tuple[bytes, bytes]], *, is_open: bool) -> None:
        """Raise Failure unless a request may be answered. headers: names in small letters. is_open: without a key, too."""
        told = dict(headers)
        if self._names is not None:
            self._check_name(told.get(b"host", b""), "Host")
            origin = told.get(b"origin")
            if origin is not None:
                self._check_name(origin.partition(b"://")[2], "Origin")
        if self._digest is not None and not is_open:
            given = hashlib.sha256(_given_key(told)).digest()
            if not hmac.compare_digest(given, self._digest):
                raise Failure(401, "wrong API key: send it as Authorization: Bearer KEY, or x-api-key: KEY")

    def _check_name(self, told: bytes, header: str) -> None:
        assert self._names is not None
        name = told[: told.find(b"]") + 1] if told.startswith(b"[") else told.partition(b":")[0]
        if name.lower() not in self._names:
            shown = name.decode("latin-1")[:100]
            raise Failure(403, f'{header} "{shown}" is not this server; pass --allow-host NAME if it is')


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

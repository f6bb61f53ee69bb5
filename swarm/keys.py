"""The swarm's secret, the keys and the mDNS tag that derive from it, and each node's own key.

Whoever holds the secret is a member. The server key pair is the same for the whole swarm; its public half is as secret
as the secret itself, so completing the CURVE handshake proves membership.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from swarm.errors import RequestError

_PREFIX = "swarm1-"
MOST_NAME = 64


@dataclass(frozen=True, slots=True)
class SwarmKeys:
    """What derives from the secret. Keys are in Z85, as ZeroMQ takes them."""

    server_public: bytes
    server_secret: bytes
    tag: str  # eight hex digits that adverts carry: tells swarms apart, proves nothing


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's or client's own CURVE key pair (Z85)."""

    public: bytes
    secret: bytes

    @property
    def node(self) -> str:
        return node_id(self.public)


def node_id(public: bytes) -> str:
    """The id of whoever authenticates with this public key (Z85)."""
    return hashlib.sha256(b"swarm node " + public).hexdigest()[:16]


def derive_keys(secret: bytes) -> SwarmKeys:
    """Server key pair and tag of the swarm with this 32-byte secret; one label each, so neither tells of the other."""
    server_secret = z85.encode(_derive(secret, b"server key")[:32])
    return SwarmKeys(zmq.curve_public(server_secret), server_secret, _derive(secret, b"mdns tag")[:4].hex())


def _derive(secret: bytes, label: bytes) -> bytes:
    return hashlib.blake2b(b"swarm 1 " + label, key=secret).digest()


def machine_id() -> str:
    """The same for processes that share processors, containers included; "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(b"swarm machine " + boot).hexdigest()[:16]


def new_identity() -> Identity:
    """A fresh key pair, for a client or a test."""
    public, secret = zmq.curve_keypair()
    return Identity(public, secret)


def read_secret(path: Path) -> bytes | None:
    """The secret in a file, or None if there is no file. Raises RequestError if it holds something else."""
    try:
        text = path.read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"secret file {path} cannot be read: {error}") from None
    try:
        secret = bytes.fromhex(text.removeprefix(_PREFIX))
    except ValueError:
        secret = b""
    if len(secret) != 32 or not text.startswith(_PREFIX):
        raise RequestError(f'secret file {path} must hold "{_PREFIX}" and 64 hex digits; copy it from a node again')
    return secret


def make_secret(path: Path) -> bytes:
    """Make the secret unless another process was first; every racing starter returns the same one."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RequestError(
            f"the swarm's secret cannot be written to {path}: {error.strerror}; pass --secret-file with a place for it"
        ) from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{_PREFIX}{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another starter's secret stands
            os.link(temporary, path)
    finally:
        temporary.unlink()
    secret = read_secret(path)
    if secret is None:
        raise RequestError(f"secret file {path} vanished while it was made; try again")
    return secret


class NameLock:
    """A node name held by this process as long as it lives, with the key that belongs to the name.

    incarnation: of this run; higher than those of all runs of this name before. stem: what files of this name may be called.
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Raises RequestError if another process holds the name."""
        if not 0 < len(name) <= MOST_NAME or not name.isprintable():
            raise RequestError(f'name "{name}" will not do: 1 to {MOST_NAME} printable characters; pass another --name')
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.name = name
        self.stem = hashlib.sha256(name.encode()).hexdigest()[:16]
        path = directory / f"{self.stem}.key"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise RequestError(f'a node named "{name}" runs on this machine already; pass another --name') from None
        self.identity, last = self._read() or (new_identity(), 0)
        # Peers believe the highest one: a clock that was set back must not make a restart look like the past.
        self.incarnation = max(time.time_ns() // 1_000_000, last + 1)
        self._write()

    def _read(self) -> tuple[Identity, int] | None:
        """The name's key and its last incarnation; None if the file holds no key."""
        stored = os.pread(self._descriptor, 256, 0).split()
        keys, last = stored[:2], stored[2] if len(stored) > 2 else b""
        if len(keys) < 2 or any(len(key) != 40 for key in keys) or zmq.curve_public(keys[1]) != keys[0]:
            return None
        return Identity(keys[0], keys[1]), int(last) if last.isdigit() and len(last) < 15 else 0

    def _write(self) -> None:
        lines = self.identity.public, self.identity.secret, str(self.incarnation).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"".join(line + b"\n" for line in lines), 0)
        os.fsync(self._descriptor)


class BorrowedName:
    """A name where nothing can be kept: a key of this run's own, and nobody is kept from using the name too."""

    def __init__(self, name: str) -> None:
        self.name = name[:MOST_NAME]
        self.stem = ""
        self.identity = new_identity()
        self.incarnation = time.time_ns() // 1_000_000


def take_name(directory: Path, name: str | None, fallback: str) -> NameLock:
    """The lock of the name asked for, or of the first free one of `fallback`, `fallback-2`, …"""
    if name is not None:
        return NameLock(directory, name)
    fallback = "".join(letter for letter in fallback if letter.isprintable())[: MOST_NAME - 4] or "node"
    for number in range(1, 100):
        try:
            return NameLock(directory, fallback if number == 1 else f"{fallback}-{number}")
        except RequestError:
            continue
    raise RequestError(f'100 nodes named "{fallback}" run on this machine; pass --name')

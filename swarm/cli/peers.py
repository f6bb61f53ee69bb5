"""Addresses that a user names: checked when the command starts, so that what is wrong is said in its own words."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Any

import click

_ADDRESS = re.compile(r"([0-9A-Za-z._%-]+|\[[0-9A-Fa-f:.%]+\]):([0-9]{1,5})")


class PeerAddress(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = _ADDRESS.fullmatch(str(value))
        if match is None or not 0 < int(match[2]) < 65536:
            self.fail(f'"{value}" is no HOST:PORT, such as 192.168.1.20:7700', param, ctx)
        return str(value)


class MetricsAddress(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """PORT, of this machine alone, or HOST:PORT."""

    name = "[HOST:]PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        told = f"127.0.0.1:{value}" if str(value).isdigit() else str(value)
        host, _, port = PeerAddress().convert(told, param, ctx).rpartition(":")
        return host.strip("[]"), int(port)


def known_peers(command: str, peers: Sequence[str]) -> list[str]:
    """Those whose host has an address; the user hears of the others."""
    found: list[str] = []
    for peer in peers:
        host, _, port = peer.rpartition(":")
        try:
            socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            found.append(peer)
        except (OSError, UnicodeError) as error:
            click.echo(f'{command}: --peer {peer}: no address is known for "{host}" ({error})', err=True)
    return found

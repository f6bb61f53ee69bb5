"""How a client finds its swarm and is let in: the options and the secret, alike for swarm-chat and swarm-status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.command import default_secret_file, find_state
from swarm.cli.peers import PeerAddress, known_peers

if TYPE_CHECKING:
    from swarm.client.swarm import SwarmClient
    from swarm.keys import SwarmKeys


def swarm_options(function: Any, host: str = "--host") -> Any:
    """How a client finds its swarm. host: what the option for addresses is called, where `--host` has another use."""
    for option in reversed(
        (
            click.option(
                "--peer",
                "peers",
                multiple=True,
                type=PeerAddress(),
                help="A node to start from where mDNS is blocked.",
            ),
            click.option("--no-mdns", is_flag=True, help="Do not browse; needs --peer, now or in an earlier run."),
            click.option(
                host, "hosts", multiple=True, help="Browse on this local address; default: every LAN address."
            ),
            click.option(
                "--secret-file",
                type=click.Path(path_type=Path, dir_okay=False),
                help="The swarm's secret; default: in your configuration directory.",
            ),
        )
    ):
        function = option(function)
    return function


def connect(
    peers: Sequence[str],
    use_mdns: bool,
    hosts: Sequence[str],
    secret_file: Path | None,
    wait_seconds: float = 0.0,
    variant: str = "",
) -> SwarmClient:
    """A client of the swarm whose secret this machine has. Raises RequestError if it has none."""
    from swarm.client.swarm import ClientSettings, SwarmClient
    from swarm.discovery.lan import lan_hosts
    from swarm.errors import RequestError
    from swarm.keys import new_identity

    command = click.get_current_context().command.name or ""
    keys = read_keys(secret_file)
    state = find_state(command)
    remembered = None if state is None else state / f"peers-{keys.tag}.json"
    if not use_mdns and not peers and (remembered is None or not remembered.exists()):
        raise RequestError("--no-mdns needs --peer HOST:PORT: there is no other way to find a node")
    settings = ClientSettings(
        hosts=list(hosts) or lan_hosts(),
        peers=known_peers(command, peers),
        remembered_peers=remembered,
        use_mdns=use_mdns,
        wait_seconds=wait_seconds,
        variant=variant,
    )
    return SwarmClient(settings, keys, new_identity())


def read_keys(secret_file: Path | None) -> SwarmKeys:
    from swarm.errors import RequestError
    from swarm.keys import derive_keys, read_secret

    path = secret_file or default_secret_file()
    secret = read_secret(path)
    if secret is None:
        raise RequestError(
            f"there is no swarm secret at {path}; copy it from a machine of the swarm, or start swarm-node here first"
        )
    return derive_keys(secret)

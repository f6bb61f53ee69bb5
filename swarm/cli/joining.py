"""How a node comes by the swarm's secret: it is there, another starter makes it, or this node is the first."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import click

BROWSE_SECONDS = 2.5


def find_secret(path: Path, hosts: Sequence[str], *, may_browse: bool) -> bytes | None:
    """The secret, made if this is the first node here; None (and how to join is said) if a swarm is announced already."""
    from swarm.keys import make_secret, read_secret

    secret = read_secret(path)
    if secret is not None:
        return secret
    if may_browse:
        seen = browse(hosts)
        secret = read_secret(path)  # another starter on this machine may have made it meanwhile
        if secret is not None:
            return secret
        if seen:
            click.echo(
                f"swarm-node: a swarm is here already (node {', '.join(sorted(seen))}), and this machine has no secret.\n"
                f"Join it: run on one of its machines\n  {join_line(path)}\n"
                "or start a swarm of your own with --new-swarm.",
                err=True,
            )
            return None
    secret = make_secret(path)
    click.echo(
        f"swarm-node: made the swarm's secret, {path}. To let another machine join, run\n  {join_line(path)}", err=True
    )
    return secret


def join_line(secret_file: Path) -> str:
    """Copies the secret to another machine without showing it."""
    return f"ssh OTHER-MACHINE 'umask 077; mkdir -p ~/.config/swarm; cat > ~/.config/swarm/secret' < {secret_file}"


def browse(hosts: Sequence[str]) -> set[str]:
    """Names of the nodes announced on this LAN, whatever swarm they belong to."""
    from swarm.discovery.lan import Lan

    seen: set[str] = set()
    try:
        lan = Lan(hosts)
    except OSError:
        return seen
    lan.browse(lambda advert: None if advert.is_demo else seen.add(advert.name or advert.node))
    threading.Event().wait(BROWSE_SECONDS)
    lan.close()
    return seen

"""swarm-gateway: makes the swarm an ordinary model server. Imports no torch."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import click

from swarm.cli.command import cache_dir, raise_file_limit, run, version_option
from swarm.cli.connecting import connect, swarm_options

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command(name="swarm-gateway", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", "address", default="127.0.0.1", show_default=True, help="Local address to serve on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Callers must send the key that is in this file.",
)
@click.option("--open", "is_open", is_flag=True, help="Serve other machines without a key.")
@click.option("--allow-host", "names", multiple=True, help="A name by which callers may know this server.")
@partial(swarm_options, host="--browse")
@version_option
def gateway(
    address: str,
    port: int,
    api_key_file: Path | None,
    is_open: bool,
    names: tuple[str, ...],
    peers: tuple[str, ...],
    no_mdns: bool,
    hosts: tuple[str, ...],
    secret_file: Path | None,
) -> None:
    """Serve the swarm's models over HTTP: to programs that speak OpenAI's interface or Anthropic's, and as a page."""
    from swarm.gateway.access import Access
    from swarm.gateway.app import make_app
    from swarm.gateway.server import listen, serve

    raise_file_limit()
    key = None if api_key_file is None else read_key(api_key_file)
    is_local = address in LOOPBACK
    if key is None and not is_local:
        if not is_open:
            raise click.UsageError(
                f"--host {address} lets other machines ask; pass --api-key-file FILE, or --open to let anybody"
            )
        click.echo("swarm-gateway: anybody who reaches this machine may use the swarm", err=True)
    try:
        listening = listen(address, port)
    except OSError as error:
        raise click.UsageError(f"cannot serve on {address} port {port}: {error.strerror}") from None
    with connect(peers, not no_mdns, hosts, secret_file) as client:
        shown = listening.getsockname()
        host = f"[{shown[0]}]" if ":" in shown[0] else shown[0]
        click.echo(f"swarm-gateway ready address=http://{host}:{shown[1]}")
        app = make_app(client, Access(key, [*own_names(), *names]), cache_dir() / "documents")
        serve(app, listening, app.state.end_answers)


def own_names() -> list[str]:
    """By which this machine may be called on its LAN."""
    name = socket.gethostname()
    return ["localhost", name, f"{name.partition('.')[0]}.local"]


def read_key(path: Path) -> bytes:
    """The key in a file. Raises UsageError for one that is empty."""
    key = path.read_bytes().strip()
    if not key:
        raise click.UsageError(f"{path} holds no key")
    return key


def main() -> None:
    run(gateway)

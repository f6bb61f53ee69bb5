"""swarm-node: serves parts of models on this machine."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm.cli.command import (
    DEFAULT_PORT,
    EXIT_FAILED,
    EXIT_NO_SECRET,
    default_secret_file,
    find_state,
    raise_file_limit,
    run,
    version_option,
    why_unusable,
)
from swarm.cli.joining import find_secret
from swarm.cli.peers import MetricsAddress, PeerAddress, known_peers
from swarm.cli.quantised import quantise_options, read_quantisation
from swarm.cli.reports import Printer
from swarm.cli.tuning import prepare_to_compute

if TYPE_CHECKING:
    from swarm.keys import BorrowedName, NameLock
    from swarm.node.shell.build import Offer, Promise
    from swarm.node.shell.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line as it was given."""

    weights: tuple[Path, ...]
    memory: str | None
    device: str
    dtype: str | None
    form: str | None
    head_form: str | None
    part: str | None
    stream: str
    hosts: tuple[str, ...]
    port: int
    peers: tuple[str, ...]
    use_mdns: bool
    name: str | None
    secret_file: Path
    new_swarm: bool
    metrics: tuple[str, int] | None
    as_json: bool
    is_demo: bool


@click.command(name="swarm-node", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--weights",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A sepweight directory; may be given again for another model, or the same in another form.",
)
@click.option("--memory", help="Use at most this much for weights, KV and scratch, for example 6GB.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Compute in this; default: as stored."
)
@quantise_options
@click.option(
    "--part", help='Serve exactly this part of each model, for example "b 0-16"; default: what the swarm lacks.'
)
@click.option(
    "--stream",
    default="auto",
    show_default=True,
    metavar="auto|never|N",
    help="Layers that are read from disk each time they are needed: as few as it takes to hold what all nodes together "
    "cannot keep, or to fit a --part; none; or N of a --part.",
)
@click.option("--host", "hosts", multiple=True, help="Listen and announce on this address; default: every LAN address.")
@click.option(
    "--port",
    type=click.IntRange(1, 65534),
    default=DEFAULT_PORT,
    show_default=True,
    help="Control port; data is the next one. Taken ones are skipped.",
)
@click.option("--peer", "peers", multiple=True, type=PeerAddress(), help="A node to start from where mDNS is blocked.")
@click.option("--no-mdns", is_flag=True, help="Neither announce nor browse.")
@click.option("--name", help="This node's name; its key and id belong to it. Default: the host's name.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The swarm's secret; default: in your configuration directory.",
)
@click.option("--new-swarm", is_flag=True, help="Make a secret although another swarm is announced here.")
@click.option(
    "--metrics",
    type=MetricsAddress(),
    help="Serve this node's figures to Prometheus on this port of this machine, or on HOST:PORT.",
)
@click.option("--json", "as_json", is_flag=True, help="Print lines on stdout as JSON.")
@click.option("--demo", "is_demo", is_flag=True, hidden=True)
@version_option
def node(
    weights: tuple[Path, ...],
    memory: str | None,
    device: str,
    dtype: str | None,
    form: str | None,
    head_form: str | None,
    part: str | None,
    stream: str,
    hosts: tuple[str, ...],
    port: int,
    peers: tuple[str, ...],
    no_mdns: bool,
    name: str | None,
    secret_file: Path | None,
    new_swarm: bool,
    metrics: tuple[str, int] | None,
    as_json: bool,
    is_demo: bool,
) -> int:
    """Serve layers of a model to the swarm on this LAN.

    Finds the other nodes, claims the layers that are missing, loads just those and serves them until Ctrl-C.
    """
    return serve(
        Options(
            weights=weights,
            memory=memory,
            device=device,
            dtype=dtype,
            form=form,
            head_form=head_form,
            part=part,
            stream=stream,
            hosts=hosts,
            port=port,
            peers=peers,
            use_mdns=not no_mdns,
            name=name,
            secret_file=secret_file or default_secret_file(),
            new_swarm=new_swarm,
            metrics=metrics,
            as_json=as_json,
            is_demo=is_demo,
        )
    )


def serve(options: Options) -> int:
    """Look at what there is to give, reserve it among the machine's nodes, serve."""
    raise_file_limit()
    prepare_to_compute()
    from swarm.node.shell.build import promise_memory, read_offer
    from swarm.node.shell.ledger import Ledger, one_at_a_time

    state = find_state("swarm-node")
    ledgers = find_shared_dir(state, "memory")
    with one_at_a_time(ledgers):  # or two that start together choose the same card
        quantisation = read_quantisation(options.form, options.head_form)
        offer = read_offer(options.weights, options.device, options.dtype, options.part, quantisation)
        ledger = Ledger(ledgers, offer.device.key)
        try:
            promise = promise_memory(offer, options.memory, ledger, options.stream)
        except BaseException:
            ledger.leave()
            raise
    try:
        return serve_offer(options, offer, promise, ledger, state)
    finally:
        ledger.leave()


def serve_offer(options: Options, offer: Offer, promise: Promise, ledger: Ledger, state: Path | None) -> int:
    """Build everything once, run the node, say what happens. promise: of the device's memory."""
    from swarm.discovery.lan import lan_hosts
    from swarm.keys import derive_keys
    from swarm.node.shell.build import build_node
    from swarm.node.shell.process import NodeSettings

    for doubt in (*offer.doubts, *promise.doubts):
        click.echo(f"swarm-node: {doubt}", err=True)
    hosts = list(options.hosts) or lan_hosts()
    secret = find_secret(options.secret_file, hosts, may_browse=options.use_mdns and not options.new_swarm)
    if secret is None:
        return EXIT_NO_SECRET
    keys = derive_keys(secret)
    files = StateFiles(None) if state is None else StateFiles(state, f"peers-{keys.tag}.json")
    settings = NodeSettings(
        hosts=hosts,
        port=options.port,
        peers=known_peers("swarm-node", options.peers),
        use_mdns=options.use_mdns,
        placement=offer.placement,
        remembered_peers=files.peers,
        is_demo=options.is_demo,
    )
    name = hold_name(state, options.name)
    cores = find_shared_dir(None, "cores") if offer.device.is_host else None
    printer = Printer(options.as_json, name.identity.node, lambda: process.addresses)
    process = build_node(
        offer, promise, settings, keys, name, ledger, files.served_before(name.stem), cores, printer.report
    )
    if options.metrics is not None:
        from swarm.node.shell.metrics import serve_metrics

        serve_metrics(*options.metrics, lambda: process.machine.said)
    stop_on_signals(process.ask_stop)
    return process.run()


@dataclass(frozen=True, slots=True)
class StateFiles:
    """What a node keeps between runs; None for what it cannot keep."""

    directory: Path | None
    peers_name: str = ""

    @property
    def peers(self) -> Path | None:
        return None if self.directory is None else self.directory / self.peers_name

    def served_before(self, stem: str) -> Path | None:
        """What a node of a name served last."""
        return None if self.directory is None else self.directory / "claims" / f"{stem}.json"


def hold_name(state: Path | None, name: str | None) -> NameLock | BorrowedName:
    """The name with the key that belongs to it, or with a new one where no key can be kept."""
    from swarm.keys import BorrowedName, take_name

    host = socket.gethostname() or "node"
    if state is not None:
        try:
            return take_name(state / "names", name, host)
        except OSError as error:
            click.echo(f"swarm-node: this node's key cannot be kept ({error.strerror}); it is this run's own", err=True)
    return BorrowedName(name or host)


def find_shared_dir(state: Path | None, name: str) -> Path | None:
    """Where nodes of this machine keep what they share, if anywhere."""
    shared = (Path(tempfile.gettempdir()) / f"swarm-{os.getuid()}") if state is None else state
    return shared / name if why_unusable(shared) is None else None


def stop_on_signals(ask_stop: Callable[[], None]) -> None:
    """The first signal asks the node to leave, a second one ends it where it stands."""
    asked: list[None] = []

    def stop(*_: object) -> None:
        if asked:
            os._exit(EXIT_FAILED)
        asked.append(None)
        ask_stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def main() -> None:
    """Runs the command, then ends without waiting for threads: one that stands in torch then would abort the interpreter."""
    try:
        run(node)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else EXIT_FAILED)

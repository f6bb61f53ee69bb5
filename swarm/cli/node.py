"""swarm-node: serves parts of models on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm.cli.command import (
    DEFAULT_PORT,
    EXIT_FAILED,
    EXIT_NO_SECRET,
    default_secret_file,
    run,
    state_dir,
    version_option,
)

if TYPE_CHECKING:
    from swarm.falcon.config import FalconConfig
    from swarm.messages import ModelCard
    from swarm.node.effects import Report
    from swarm.node.work import EngineLoader
    from swarm.parts import Part
    from swarm.sepweight.manifest import Manifest

BROWSE_SECONDS = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line as it was given."""

    weights: tuple[Path, ...]
    memory: str | None
    device: str
    dtype: str | None
    part: str | None
    hosts: tuple[str, ...]
    port: int
    peers: tuple[str, ...]
    use_mdns: bool
    name: str | None
    secret_file: Path
    new_swarm: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """A model whose weights lie here."""

    directory: Path
    manifest: Manifest
    config: FalconConfig


@click.command(name="swarm-node", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--weights",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A sepweight directory; may be given again for another model.",
)
@click.option("--memory", help="Use at most this much for weights, KV and scratch, for example 6GB.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Compute in this; default: as stored."
)
@click.option("--part", help='Serve exactly this part, for example "b 0-16"; default: what the swarm lacks.')
@click.option("--host", "hosts", multiple=True, help="Listen and announce on this address; default: every LAN address.")
@click.option(
    "--port",
    type=click.IntRange(1, 65534),
    default=DEFAULT_PORT,
    show_default=True,
    help="Control port; data is the next one. Taken ones are skipped.",
)
@click.option("--peer", "peers", multiple=True, metavar="HOST:PORT", help="A node to start from where mDNS is blocked.")
@click.option("--no-mdns", is_flag=True, help="Neither announce nor browse.")
@click.option("--name", help="This node's name; its key and id belong to it. Default: the host's name.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The swarm's secret; default: in your configuration directory.",
)
@click.option("--new-swarm", is_flag=True, help="Make a secret although another swarm is announced here.")
@click.option("--json", "as_json", is_flag=True, help="Print lines on stdout as JSON.")
@version_option
def node(
    weights: tuple[Path, ...],
    memory: str | None,
    device: str,
    dtype: str | None,
    part: str | None,
    hosts: tuple[str, ...],
    port: int,
    peers: tuple[str, ...],
    no_mdns: bool,
    name: str | None,
    secret_file: Path | None,
    new_swarm: bool,
    as_json: bool,
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
            part=part,
            hosts=hosts,
            port=port,
            peers=peers,
            use_mdns=not no_mdns,
            name=name,
            secret_file=secret_file or default_secret_file(),
            new_swarm=new_swarm,
            as_json=as_json,
        )
    )


def serve(options: Options) -> int:
    """Build everything once, run the node, say what happens."""
    # Several nodes may share a machine: OpenMP threads that spin for long steal each other's cores. 30,000 spins bridge
    # the gaps between a layer's operations and end well before the next node's turn.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from swarm.discovery.lan import lan_hosts
    from swarm.errors import RequestError
    from swarm.keys import derive_keys, take_name
    from swarm.node.ledger import Ledger
    from swarm.node.membership import LocalModel, Self
    from swarm.node.memory import (
        SPARED_SHARE,
        check_budget,
        check_part,
        choose_device,
        measure_device,
        model_memory,
        parse_size,
        part_bytes,
    )
    from swarm.node.process import NodeProcess, NodeSettings
    from swarm.node.turns import Turns
    from swarm.parts import parse_part, whole

    models = read_weights(options.weights)
    device = choose_device(options.device)
    figures = {one.manifest.model_id: model_memory(one.manifest, one.config, options.dtype, device) for one in models}
    placement: dict[str, Part] = {}
    if options.part is not None:
        if len(models) > 1:
            raise RequestError("--part needs exactly one --weights")
        placement[models[0].manifest.model_id] = parse_part(options.part, models[0].manifest.layers)
    hosts = list(options.hosts) or lan_hosts()
    secret = find_secret(options, hosts)
    if secret is None:
        return EXIT_NO_SECRET
    keys = derive_keys(secret)
    lock = take_name(state_dir() / "names", options.name, socket.gethostname() or "node")
    ledger = Ledger(state_dir() / "memory", device)
    memory_now = measure_device(device)
    useful = sum(figures[model].useful(placement.get(model) or whole(figures[model].costs.layers)) for model in figures)
    most = useful if options.memory is None else min(useful, parse_size(options.memory))
    budget = ledger.promise(lambda: int(measure_device(device).free * (1 - SPARED_SHARE)), most)
    try:
        for one in models:
            check_budget(one.manifest.name, figures[one.manifest.model_id], budget)
        for model, part in placement.items():
            check_part(models[0].manifest.name, figures, model, part, budget)
        me = Self(
            node=lock.identity.node,
            incarnation=time.time_ns() // 1_000_000,
            name=lock.name[:64],
            device=device,
            memory_total=memory_now.total,
            budget=budget - max(one.scratch for one in figures.values()),
            models=tuple(
                LocalModel(one.manifest.model_id, one.manifest.name, figures[one.manifest.model_id].costs)
                for one in models
            ),
        )
        printer = Printer(options.as_json, me.node, lambda: process.addresses)

        def report(report: Report) -> None:
            printer.report(report)
            if report.kind == "ready":  # its weights show in the device's own figures from now on
                one = figures[report.fields["model_id"]]
                part = parse_part(report.fields["part"], one.costs.layers)
                ledger.note_allocated(part_bytes(one.weight_costs, part))

        def make_loader(on_layer: Callable[[], None]) -> EngineLoader:
            from swarm.node.engine import FalconLoader  # seconds of torch, on the compute thread: discovery goes on

            return FalconLoader(
                {one.manifest.model_id: one.directory for one in models},
                device,
                options.dtype,
                lambda model, part: figures[model].kv_capacity(part, budget),
                on_layer,
            )

        documents = {
            entry.sha256: one.directory / name for one in models for name, entry in one.manifest.documents.items()
        }
        process = NodeProcess(
            NodeSettings(
                hosts=hosts,
                port=options.port,
                peers=options.peers,
                use_mdns=options.use_mdns,
                placement=placement,
                remembered_peers=state_dir() / "peers.json",
            ),
            keys,
            lock.identity,
            me,
            {one.manifest.model_id: make_card(one) for one in models},
            documents,
            make_loader,
            report,
            Turns(Path(tempfile.gettempdir()) / f"swarm-{os.getuid()}" / "turns" if device == "cpu" else None),
            printer.show_progress,
        )
        stop_on_signals(process.ask_stop)
        return process.run()
    finally:
        ledger.leave()


def read_weights(directories: Sequence[Path]) -> list[Weights]:
    """Manifest and config of each directory. Raises WeightsError."""
    from swarm.errors import WeightsError
    from swarm.falcon.config import FALCON, read_falcon_config
    from swarm.sepweight.manifest import read_manifest

    found: list[Weights] = []
    for directory in directories:
        manifest = read_manifest(directory)
        if manifest.family != FALCON.name:
            raise WeightsError(f'{directory} holds a model of family "{manifest.family}"; this version runs falcon')
        found.append(Weights(directory, manifest, read_falcon_config(manifest.config)))
    return found


def make_card(weights: Weights) -> ModelCard:
    from swarm.messages import DocumentCard, ModelCard

    manifest, config = weights.manifest, weights.config
    return ModelCard(
        model=manifest.model_id,
        name=manifest.name[:64],
        layers=config.layers,
        context=config.context,
        vocabulary=config.vocabulary,
        end_ids=list(config.end_ids),
        documents={name: DocumentCard(entry.sha256, entry.bytes) for name, entry in manifest.documents.items()},
    )


def find_secret(options: Options, hosts: Sequence[str]) -> bytes | None:
    """The secret, made if this is the first node here; None (and how to join) if a swarm is announced already."""
    from swarm.keys import make_secret, read_secret

    secret = read_secret(options.secret_file)
    if secret is not None:
        return secret
    if not options.new_swarm and options.use_mdns:
        seen = browse(hosts)
        secret = read_secret(options.secret_file)  # another starter on this machine may have made it meanwhile
        if secret is not None:
            return secret
        if seen:
            click.echo(
                f"swarm-node: a swarm is here already (node {', '.join(sorted(seen))}), and this machine has no secret.\n"
                f"Join it: run on one of its machines\n  {join_line(options.secret_file)}\n"
                "or start a swarm of your own with --new-swarm.",
                err=True,
            )
            return None
    secret = make_secret(options.secret_file)
    click.echo(
        f"swarm-node: made the swarm's secret, {options.secret_file}. To let another machine join, run\n"
        f"  {join_line(options.secret_file)}",
        err=True,
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
    lan.browse(lambda advert: seen.add(advert.name or advert.node))
    threading.Event().wait(BROWSE_SECONDS)
    lan.close()
    return seen


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


class Printer:
    """Says on the terminal what the node reports: the ready line on stdout, everything else on stderr."""

    def __init__(self, as_json: bool, node: str, addresses: Callable[[], Sequence[str]]) -> None:
        self._as_json = as_json
        self._node = node
        self._addresses = addresses
        self._said: set[str] = set()
        self._is_terminal = sys.stderr.isatty()

    def report(self, report: Report) -> None:
        if report.kind == "ready":
            self._say_ready(report.fields)
            return
        sentence = SENTENCES[report.kind].format(**report.fields)
        if sentence not in self._said:  # a wrong secret is tried again and again, but said once
            self._said.add(sentence)
            click.echo(f"swarm-node: {sentence}", err=True)

    def _say_ready(self, fields: Mapping[str, object]) -> None:
        address = f"tcp://{self._addresses()[0]}"
        line = {"event": "ready", "id": self._node, **fields, "address": address}
        if self._as_json:
            click.echo(json.dumps(line))
        else:
            click.echo(
                f'swarm-node ready id={self._node} part="{fields["part"]}" model={fields["model"]} address={address}'
            )
        sys.stdout.flush()

    def show_progress(self, model: str, done: int, total: int) -> None:
        del model
        if self._is_terminal:
            click.echo(f"\rloading {done}/{total}", nl=done == total, err=True)


SENTENCES = {
    "leaving": "leaving the swarm",
    "failed": "cannot serve: {message}",
    "compute-failed": "a batch failed: {message}",
    "refused": "node {peer} refused a message: {code}",
    "blocked": "seen by mDNS or --peer, but TCP {address} times out or is refused: open it in the firewall",
    "wrong-secret": "{address}: {reason}",
    "no-mdns": "mDNS is not available here ({message}); give --peer HOST:PORT",
}


def main() -> None:
    run(node)

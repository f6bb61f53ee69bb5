"""Says on the terminal what a node reports."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from swarm.node.effects import Report

SENTENCES = {
    "looking": "looking for other nodes, to serve what they lack",
    "leaving": "leaving the swarm",
    "failed": "cannot serve: {message}",
    "damaged": "{file} is damaged and no longer served: its sha256 is {sha256}, the manifest says {expected}; copy it from "
    "another machine or convert the checkpoint again, then restart",
    "compute-failed": "a batch failed: {message}",
    "passed-over": "another node on this machine has the cores and does not go on: computing beside it",
    "refused": "node {peer} refused a message: {code}",
    "blocked": "seen by mDNS or --peer, but TCP {address} times out or is refused: open it in the firewall",
    "wrong-secret": "{address}: {reason}",
    "no-mdns": "mDNS is not available here ({message}); give --peer HOST:PORT",
}


MOST_OF_A_KIND = 16  # anyone on the LAN can announce addresses without number


class Printer:
    """Says on the terminal what the node reports: the ready line on stdout, everything else on stderr."""

    def __init__(self, as_json: bool, node: str, addresses: Callable[[], Sequence[str]]) -> None:
        self._as_json = as_json
        self._node = node
        self._addresses = addresses
        self._said: defaultdict[str, set[str]] = defaultdict(set)
        self._is_terminal = sys.stderr.isatty()
        self._has_open_line = False
        self._quarters = 0

    def report(self, report: Report) -> None:
        if report.kind == "loading":
            self._show_progress(report.fields)
            return
        self._end_line()
        if report.kind == "ready":
            self._say_ready(report.fields)
            return
        sentence = SENTENCES[report.kind].format(**report.fields)
        said = self._said[report.kind]
        if sentence in said or len(said) > MOST_OF_A_KIND:
            return  # a wrong secret is tried again and again, but said once
        said.add(sentence)
        if len(said) > MOST_OF_A_KIND:
            sentence = f"more of this kind is not shown: {sentence}"
        click.echo(f"swarm-node: {sentence}", err=True)

    def _say_ready(self, fields: Mapping[str, object]) -> None:
        address = f"tcp://{self._addresses()[0]}"
        line = {"event": "ready", "id": self._node, **fields, "address": address}
        if self._as_json:
            click.echo(json.dumps(line))
        else:
            streamed = f" streamed={fields['streamed']}" if "streamed" in fields else ""
            said = f'part="{fields["part"]}" model={fields["model"]}{streamed} address={address}'
            click.echo(f"swarm-node ready id={self._node} {said}")
        sys.stdout.flush()

    def _show_progress(self, fields: Mapping[str, Any]) -> None:
        """On a terminal as it goes on, else every quarter."""
        from swarm.sizes import format_size

        percent = 100 * fields["done"] // max(1, fields["total"])
        said = f'loading "{fields["part"]}" of {fields["model"]}: {percent}% of {format_size(fields["total"])}'
        if self._is_terminal:
            click.echo(f"\rswarm-node: {said}", nl=False, err=True)
            self._has_open_line = True
        elif percent // 25 > self._quarters:
            self._quarters = percent // 25
            click.echo(f"swarm-node: {said}", err=True)

    def _end_line(self) -> None:
        """What comes next is said on a line of its own."""
        self._quarters = 0
        if self._has_open_line:
            self._has_open_line = False
            click.echo(err=True)

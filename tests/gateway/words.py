"""A gateway over nodes of the model of integers, which start in no time: each token is a word."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from swarm.testing.integer_model import IntegerModel
from tests.gateway.serving import Gateway
from tests.integer_processes import Process, end_nodes, start_node

SECRET = b"s" * 32  # what those nodes' keys are derived from
VOCABULARY = 1000
NAME = "integers"


def save_words(path: Path) -> None:
    """A tokenizer of as many words as the model has tokens, each with the blank before it."""
    tokenizer = Tokenizer(models.WordLevel({f"▁w{number}": number for number in range(VOCABULARY)}, unk_token="▁w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(path))


class Words:
    """Nodes and their gateway. parts: what nodes serve, one each; others may take the place of those that die."""

    def __init__(self, home: Path, model: IntegerModel, parts: Sequence[str], first: int, **options: int) -> None:
        """first: the number of the first node, of which its port is made. options: of make_node."""
        self.model = model
        self.nodes: list[Process] = []
        self._numbers = itertools.count(first)
        self._options = options
        self._home = home
        self._tokenizer = home / "tokenizer.json"
        save_words(self._tokenizer)
        self._secret = home / "secret"
        self._secret.write_text(f"swarm1-{SECRET.hex()}\n")
        self._secret.chmod(0o600)
        for part in parts:
            self.add(part)
        self.gateway = self.open_gateway()

    def open_gateway(self) -> Gateway:
        """Of the nodes that there are."""
        return Gateway(self._home, self._addresses, ["--secret-file", str(self._secret)])

    @property
    def _addresses(self) -> list[str]:
        return [node.address for node in self.nodes if node.popen.poll() is None]

    def add(self, part: str) -> Process:
        options = {"tokenizer": str(self._tokenizer), **self._options}
        node = start_node(part, next(self._numbers), self.model, self._addresses, **options)
        self.nodes.append(node)
        return node

    def find(self, node: str) -> Process:
        return next(one for one in self.nodes if one.node == node)

    def count(self) -> int:
        """Nodes that the gateway sees."""
        return len(self.gateway.ask("/swarm")[2]["nodes"])


@contextmanager
def words(home: Path, model: IntegerModel, parts: Sequence[str], first: int, **options: int) -> Iterator[Words]:
    """They all end with it."""
    made = Words(home, model, parts, first, **options)
    try:
        yield made
        assert not made.gateway.errors
    finally:
        made.gateway.stop()
        end_nodes(made.nodes)

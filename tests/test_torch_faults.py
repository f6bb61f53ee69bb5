"""Real nodes with real layers join, leave and die under running answers.

The tokens are those of transformers in float32, and in bfloat16 those of one part that computes everything in one go.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from swarm.client.news import Delivered, RouteTaken
from swarm.client.swarm import ClientSettings, SwarmClient
from swarm.client.transcript import Turn
from swarm.decoder.part import DecoderPart
from swarm.errors import PeerError
from swarm.keys import derive_keys, new_identity, read_secret
from swarm.loading import init_part
from swarm.messages.sampling import Sampling
from swarm.messages.steps import Score
from swarm.plan.routes import Hop
from tests.checkpoints import save_sepweight
from tests.layouts import maker_of
from tests.processes import Node, run_command, stop_all
from tests.swarms import HOST, wait_until

pytestmark = pytest.mark.slow
IDS = [5, 17, 3, 88, 42]
KILLS = 6  # of each layout
KILL_TOKENS = 64
MOVE_TOKENS = 20_000  # more than are said before a node has joined
MORE_TOKENS = 100
LEAVE_AT = 10


class Swarm:
    """Nodes that serve one tiny checkpoint, and a client of them."""

    def __init__(self, weights: Path, home: Path) -> None:
        self.nodes: list[Node] = []
        self._weights = weights
        self._home = home

    def start(self, part: str, program: Sequence[str] = ("swarm.cli",), weights: Path | None = None) -> Node:
        """A node that serves a part; does not wait for it. program: as Node has it; weights: another directory."""
        peers = [word for node in self.nodes[:1] for word in ("--peer", node.wait_ready()[4])]
        common = ["--weights", str(weights or self._weights), "--host", HOST, "--port", "18900", "--no-mdns"]
        self.nodes.append(Node(self._home, [*common, "--part", part, *peers], program=program))
        return self.nodes[-1]

    @contextmanager
    def client(self, wait_seconds: float = 0.0) -> Iterator[SwarmClient]:
        """A client of the nodes that are ready."""
        secret = read_secret(self._home / "config" / "swarm" / "secret")
        assert secret is not None
        peers = [self.nodes[0].wait_ready()[4]]
        settings = ClientSettings(hosts=[HOST], peers=peers, use_mdns=False, wait_seconds=wait_seconds)
        with SwarmClient(settings, derive_keys(secret), new_identity()) as client:
            yield client

    def stop(self) -> None:
        stop_all([node for node in self.nodes if node.process.poll() is None])


def answer(
    client: SwarmClient, tokens: int, on_token: Callable[[int, Sequence[Hop]], bool | None]
) -> tuple[list[int], list[Sequence[Hop]]]:
    """An answer's ids and its routes; on_token: called with the count so far and the route; true ends the answer."""
    generation = client.open_generation(client.card(client.find_model(None, 20)))
    ids: list[int] = []
    routes: list[Sequence[Hop]] = []
    for event in generation.generate(Turn(ids=IDS, max_tokens=tokens, sampling=Sampling(), stop_ids=[])):
        if isinstance(event, RouteTaken):
            routes.append(event.route)
        if isinstance(event, Delivered):
            ids += event.ids
            if on_token(len(ids), routes[-1]):
                break
    generation.cancel()
    return ids, routes


def check_engines_are_empty(client: SwarmClient) -> None:
    """No cache without a session, in any engine of the nodes that live, and no session after the last answer."""

    def is_empty() -> bool:
        return bool(client.beats) and all(beat.sessions == beat.caches == 0 for beat in client.beats)

    wait_until(is_empty, 15, f"nothing is left: {[(beat.sessions, beat.caches) for beat in client.beats]}")


def expect_unbroken(weights: Path, tokens: int) -> list[int]:
    """What one part says that holds the whole model, as the weights are stored."""
    part = init_part(weights, "f")
    cache = part.new_cache(len(IDS) + tokens)
    new, ids = list(IDS), list[int]()
    for _ in range(tokens):
        new = [int(part(torch.tensor(new), cache)[-1].argmax())]
        ids += new
    return ids


def expect(model: torch.nn.Module, tokens: int) -> list[int]:
    """What transformers says."""
    out = model.generate(torch.tensor([IDS]), max_new_tokens=tokens, do_sample=False, eos_token_id=None)  # pyright: ignore
    return out[0, len(IDS) :].tolist()


@torch.inference_mode()
def follow(whole: PreTrainedModel | DecoderPart, said: list[int]) -> list[int]:
    """What the whole model finds likeliest after each prefix of an answer, in one pass; said itself, if all is well."""
    ids = torch.tensor(IDS + said[:-1])
    logits = whole(ids) if isinstance(whole, DecoderPart) else whole(ids[None]).logits[0]
    return logits[len(IDS) - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("7b", "float32"),
        pytest.param("40b", "bfloat16", marks=pytest.mark.long),
        pytest.param("rw", "bfloat16", marks=pytest.mark.long),
        ("llama, wide heads", "float32"),
        ("gemma2", "bfloat16"),
    ],
)
def test_killed_hops_change_no_token(layout: str, dtype: str, tmp_path: Path) -> None:
    model = maker_of(layout).save_sepweight(layout, tmp_path / "weights", dtype=dtype)
    expected = expect(model, KILL_TOKENS) if dtype == "float32" else expect_unbroken(tmp_path / "weights", KILL_TOKENS)
    swarm = Swarm(tmp_path / "weights", tmp_path)
    try:
        parts = ("b 0-2", "2-4 e")
        starting = [swarm.start(part) for part in parts * 2]
        by_id: dict[str, Node] = {}
        with swarm.client() as client:
            for number in range(KILLS):
                while len(starting) > 1:  # the last one is no spare of what dies next
                    node = starting.pop(0)
                    by_id[node.wait_ready()[1]] = node
                killed: list[Node] = []

                def strike(count: int, route: Sequence[Hop], number: int = number, killed: list[Node] = killed) -> None:
                    if count == 1 + 10 * number and not killed:
                        killed.append(by_id[route[number % 2].node])
                        killed[0].kill()

                ids, routes = answer(client, KILL_TOKENS, strike)
                assert ids == expected, f"kill {number}"
                assert len(routes) > 1
                starting.append(swarm.start(parts[number % 2]))
            for node in starting:
                node.wait_ready()
            check_engines_are_empty(client)
    finally:
        swarm.stop()


def test_scores_of_given_answers_are_transformers_though_a_hop_dies(tmp_path: Path) -> None:
    model = maker_of("qwen3").save_sepweight("qwen3", tmp_path / "weights")
    given = [(11 * number) % 90 for number in range(1200)]
    with torch.inference_mode():
        logs = model(torch.tensor([[*IDS, *given[:-1]]])).logits[0, len(IDS) - 1 :].log_softmax(-1)
    swarm = Swarm(tmp_path / "weights", tmp_path)
    try:
        by_id = {node.wait_ready()[1]: node for node in [swarm.start(part) for part in ("b 0-2", "2-4 e", "2-4 e")]}
        turn = Turn(ids=IDS, max_tokens=len(given), sampling=Sampling(), stop_ids=[], scores=3, given=given)
        told: list[Score] = []
        with swarm.client() as client, client.open_generation(client.card(client.find_model(None, 20))) as generation:
            for event in generation.generate(turn):
                if isinstance(event, Delivered):
                    assert list(event.ids) == given[len(told) : len(told) + len(event.ids)]
                    told += event.scores
                    if len(told) == len(event.scores):
                        by_id[generation.machine.route[-1].node].kill()
            assert generation.machine.attempts > 1
    finally:
        swarm.stop()
    values = torch.tensor([score.log_probability for score in told])
    assert (values - logs.gather(1, torch.tensor(given)[:, None])[:, 0]).abs().max() < 1e-5
    likeliest = torch.tensor([[log for _, log in score.likeliest] for score in told])
    assert (likeliest - logs.topk(3).values).abs().max() < 1e-5


@pytest.mark.parametrize(("layout", "dtype"), [("7b", "bfloat16"), ("llama, wide heads", "float32")])
def test_a_node_joins_and_leaves_under_running_answers(layout: str, dtype: str, tmp_path: Path) -> None:
    """Each answer goes on until it has changed its route, as a node of it leaves, and said some more."""
    changes = {"max_position_embeddings": MOVE_TOKENS + len(IDS)}
    model = maker_of(layout).save_sepweight(layout, tmp_path / "weights", dtype=dtype, **changes)
    swarm = Swarm(tmp_path / "weights", tmp_path)
    try:
        swarm.start("b 0-2").wait_ready()
        swarm.start("2-4 e").wait_ready()
        with swarm.client() as client:
            late: list[Node] = []

            left: list[Node] = []

            def leave_once(node: Node) -> None:
                if node not in left:
                    left.append(node)
                    node.process.terminate()

            def join(count: int, route: Sequence[Hop]) -> bool:
                if not late:
                    late.append(swarm.start("f"))
                if late[0].is_ready:
                    leave_once(swarm.nodes[1])
                return enough_after(count, len(route) == 1)

            def leave(count: int, route: Sequence[Hop]) -> bool:
                if count >= LEAVE_AT:
                    leave_once(late[0])
                return enough_after(count, len(route) == 2)

            enough_after = make_enough()
            joined, joined_routes = answer(client, MOVE_TOKENS, join)
            swarm.start("2-4 e").wait_ready()
            enough_after = make_enough()
            leaving, left_routes = answer(client, MOVE_TOKENS, leave)
            check_engines_are_empty(client)
    finally:
        swarm.stop()
    assert [len(route) for route in joined_routes] == [2, 1]
    assert [len(route) for route in left_routes] == [1, 2]
    whole = model if dtype == "float32" else init_part(tmp_path / "weights", "f")
    assert joined == follow(whole, joined)
    assert leaving == follow(whole, leaving)


def make_enough() -> Callable[[int, bool], bool]:
    """Whether an answer has gone on for MORE_TOKENS since it was first seen on the other route."""
    since: list[int] = []

    def is_enough(count: int, is_there: bool) -> bool:
        if is_there and not since:
            since.append(count)
        return bool(since) and count - since[0] >= MORE_TOKENS

    return is_enough


FULL_AT = 128  # positions


def test_a_cache_that_cannot_grow_moves_its_session_elsewhere(tmp_path: Path) -> None:
    """The answer begins where there is no memory for all of it; the other node comes when it has come so far."""
    expected = expect(save_sepweight("40b", tmp_path / "weights"), 2 * FULL_AT)
    swarm = Swarm(tmp_path / "weights", tmp_path)
    try:
        swarm.start("b 0-2").wait_ready()
        full = swarm.start("2-4 e", ("tests.failing_torch_node", str(FULL_AT))).wait_ready()[1]
        swarm.start("2-4 e")
        with swarm.client(wait_seconds=60) as client:
            ids, routes = answer(client, 2 * FULL_AT, lambda count, route: None)
        assert ids == expected
        assert routes[0][1].node == full
        assert routes[-1][1].node != full
    finally:
        swarm.stop()


def test_where_no_other_node_has_room_the_user_hears_why(tmp_path: Path) -> None:
    save_sepweight("40b", tmp_path / "weights")
    swarm = Swarm(tmp_path / "weights", tmp_path)
    try:
        swarm.start("b 0-2").wait_ready()
        swarm.start("2-4 e", ("tests.failing_torch_node", str(FULL_AT))).wait_ready()
        with swarm.client() as client, pytest.raises(PeerError, match=r'"2-4 e" fails: .*not enough memory') as caught:
            answer(client, 2 * FULL_AT, lambda count, route: None)
        assert caught.value.code == "FAILED"
    finally:
        swarm.stop()


def test_weights_that_are_not_finite_end_the_answer_with_the_node_and_its_layers(tmp_path: Path) -> None:
    save_sepweight("40b", tmp_path / "weights")
    spoil(tmp_path / "weights" / "mid.00003.safetensors")
    swarm = Swarm(tmp_path / "weights", tmp_path)
    try:
        swarm.start("b 0-2").wait_ready()
        node = swarm.start("2-4 e").wait_ready()[1]
        with (
            swarm.client() as client,
            pytest.raises(PeerError, match=f'node {node}: "2-4 e" fails: .*NaN or infinity'),
        ):
            answer(client, 20, lambda count, route: None)
    finally:
        swarm.stop()


def spoil(file: Path) -> None:
    """Make some of its last numbers NaN, as a bad conversion would: the manifest knows them so."""
    data = bytearray(file.read_bytes())
    data[-64:] = b"\xff" * 64
    known, new = (hashlib.sha256(one).hexdigest() for one in (file.read_bytes(), bytes(data)))
    file.write_bytes(data)
    manifest = file.with_name("sepweight.json")
    manifest.write_text(manifest.read_text().replace(known, new))


def test_a_flipped_byte_is_noticed_and_its_layers_are_served_by_others(tmp_path: Path) -> None:
    """The answers are right although one of two copies is not; the node says which file, and serves what is left."""
    expected = expect(save_sepweight("40b", tmp_path / "weights"), KILL_TOKENS)
    shutil.copytree(tmp_path / "weights", tmp_path / "damaged")
    file = tmp_path / "damaged" / "mid.00003.safetensors"
    data = bytearray(file.read_bytes())
    data[-1001] ^= 0x40
    file.write_bytes(data)
    swarm = Swarm(tmp_path / "weights", tmp_path)
    try:
        swarm.start("b 0-2").wait_ready()
        swarm.start("2-4 e").wait_ready()
        node = swarm.start("2-4 e", weights=tmp_path / "damaged")
        wait_until(lambda: any("is damaged and no longer served" in line for line in node.errors), 20, "it is noticed")
        (said,) = [line for line in node.errors if "is damaged" in line]
        assert str(file) in said
        assert hashlib.sha256(data).hexdigest() in said
        with swarm.client() as client:
            client.wait_for(lambda beats: False, 1.5)
            serving = [claim.part for beat in client.beats for claim in beat.claims if claim.state == "serving"]
            assert sorted(serving) == ["2-3 e", "2-4 e", "b 0-2"]
            for _ in range(3):
                assert answer(client, KILL_TOKENS, lambda count, route: None)[0] == expected
        done = run_command("weights", tmp_path, ["verify", str(tmp_path / "damaged")])
        assert done.returncode == 1
        assert str(file) in done.stderr
        assert "copy it from another machine" in done.stderr
    finally:
        swarm.stop()

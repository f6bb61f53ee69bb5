"""The whole protocol under the real shell and sockets, with a model that notices every misplaced step."""

from __future__ import annotations

import random
import threading
import time

import pytest

from swarm.client.news import Delivered
from swarm.client.transcript import Turn
from swarm.errors import PeerError, RequestError
from swarm.messages.sampling import Sampling
from swarm.parts import parse_part
from swarm.testing.integer_model import IntegerModel
from tests.swarms import (
    IntegerNode,
    client_of,
    count_kv,
    generate,
    integer_swarm,
    make_node,
    open_client,
    wait_until,
)

MODEL = IntegerModel()
PARTS = ["b 0-4", "4-8", "8-12 e"]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("parts", [["f"], PARTS, ["b", "0-12", "e"], ["b 0-1", "1-12 e"]])
def test_any_split_answers_as_the_model_alone(parts: list[str]) -> None:
    with integer_swarm(MODEL, parts) as nodes, client_of(nodes) as swarm:
        assert generate(swarm, PROMPT, 64) == MODEL.answer(PROMPT, 64)


def test_one_node_may_be_two_hops_of_a_chain() -> None:
    with integer_swarm(MODEL, ["b 0-3 6-9", "3-6 9-12 e"]) as nodes, client_of(nodes) as swarm:
        assert generate(swarm, PROMPT, 32) == MODEL.answer(PROMPT, 32)


def test_a_seeded_answer_is_the_same_on_another_chain() -> None:
    sampling = Sampling(temperature=1.0, seed=7)
    with integer_swarm(MODEL, PARTS) as nodes, client_of(nodes) as swarm:
        assert generate(swarm, PROMPT, 32, sampling) == MODEL.answer(PROMPT, 32, sampling)


def test_a_long_prompt_travels_in_chunks_that_wait_for_credit() -> None:
    prompt = [random.Random(1).randrange(1000) for _ in range(1500)]
    with integer_swarm(MODEL, PARTS) as nodes, client_of(nodes) as swarm:
        assert generate(swarm, prompt, 16) == MODEL.answer(prompt, 16)


def test_eight_clients_at_once_each_get_their_own_answer() -> None:
    prompts = [[random.Random(seed).randrange(1000) for _ in range(5 + 40 * seed)] for seed in range(8)]
    answers: dict[int, list[int]] = {}
    with integer_swarm(IntegerModel(layer_seconds=0.0002), PARTS) as nodes:

        def work(index: int) -> None:
            with client_of(nodes) as swarm:
                answers[index] = generate(swarm, prompts[index], 40)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answers == {index: MODEL.answer(prompt, 40) for index, prompt in enumerate(prompts)}


def test_the_next_turn_sends_only_what_follows_the_common_prefix() -> None:
    with integer_swarm(MODEL, PARTS) as nodes, client_of(nodes) as swarm:
        generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
        ids = list(PROMPT)
        for question in ([], [7, 7, 7], [8]):
            ids += question
            turn = Turn(ids=ids, max_tokens=16, sampling=Sampling(), stop_ids=[])
            new = [token for event in generation.generate(turn) if isinstance(event, Delivered) for token in event.ids]
            assert new == MODEL.answer(ids, 16)
            ids += new
            # what was fed is what the caches lacked: the question, and the last token sampled before it
            assert generation.machine.lead._fed - generation.machine.lead._start <= len(question) + 1 or question == []


def test_a_session_keeps_its_cache_after_the_answer_and_frees_it_when_closed() -> None:
    with integer_swarm(MODEL, PARTS) as nodes, client_of(nodes) as swarm:
        generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
        list(generation.generate(Turn(ids=PROMPT, max_tokens=4, sampling=Sampling(), stop_ids=[])))
        assert all(count_kv(node) for node in nodes)
        generation.cancel()
        wait_until(lambda: not any(count_kv(node) for node in nodes), 1, "closed caches are free within a second")


def test_a_client_that_vanishes_frees_its_cache_within_the_lease() -> None:
    slow = IntegerModel(layer_seconds=0.005)
    with integer_swarm(slow, PARTS) as nodes:
        with client_of(nodes) as swarm:
            generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
            events = generation.generate(Turn(ids=PROMPT, max_tokens=2000, sampling=Sampling(), stop_ids=[]))
            next(events)
            wait_until(lambda: all(count_kv(node) for node in nodes), 5, "the session is open everywhere")
            swarm._loop._generations.clear()  # as a client that is killed: no close is sent
        wait_until(lambda: not any(count_kv(node) for node in nodes), 5, "leases have run out")


def test_an_answer_stops_at_an_end_token() -> None:
    expected = MODEL.answer(PROMPT, 64)
    stop = expected[10]
    with integer_swarm(MODEL, PARTS) as nodes, client_of(nodes) as swarm:
        generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
        turn = Turn(ids=PROMPT, max_tokens=64, sampling=Sampling(), stop_ids=[stop])
        new = [token for event in generation.generate(turn) if isinstance(event, Delivered) for token in event.ids]
    assert new == expected[: expected.index(stop) + 1]


def test_more_positions_than_a_node_has_room_for_are_refused_with_the_numbers() -> None:
    with integer_swarm(MODEL, PARTS, kv_capacity=100 * 4 * 8) as nodes, client_of(nodes) as swarm:
        with pytest.raises(RequestError, match=r"3,200"):
            generate(swarm, PROMPT, 200)
        assert generate(swarm, PROMPT, 64) == MODEL.answer(PROMPT, 64)


def test_an_idle_session_gives_way_to_one_that_needs_the_room() -> None:
    with integer_swarm(MODEL, ["f"], kv_capacity=100 * 12 * 8) as nodes, client_of(nodes) as swarm:
        card = swarm.card(swarm.find_model(None, 10))
        first = swarm.open_generation(card)
        turn = Turn(ids=PROMPT, max_tokens=60, sampling=Sampling(), stop_ids=[])
        list(first.generate(turn))
        assert generate(swarm, PROMPT, 60) == MODEL.answer(PROMPT, 60)
        ids = PROMPT + first.machine.ids[len(PROMPT) :]
        follow = Turn(ids=ids, max_tokens=8, sampling=Sampling(), stop_ids=[])
        new = [token for event in first.generate(follow) if isinstance(event, Delivered) for token in event.ids]
        assert new == MODEL.answer(ids, 8)


def test_a_missing_part_is_named() -> None:
    with (
        integer_swarm(MODEL, ["b 0-4", "8-12 e"]) as nodes,
        client_of(nodes) as swarm,
        pytest.raises(PeerError, match=r"layers 4-8 missing"),
    ):
        swarm.find_model(None, 1)


def test_a_dead_hop_is_replaced_without_repeating_tokens() -> None:
    slow = IntegerModel(layer_seconds=0.002)
    with integer_swarm(slow, [*PARTS, "4-8"]) as nodes, client_of(nodes) as swarm:
        generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
        new: list[int] = []
        for event in generation.generate(Turn(ids=PROMPT, max_tokens=100, sampling=Sampling(), stop_ids=[])):
            if isinstance(event, Delivered):
                new += event.ids
                if len(new) == 20:
                    middle = generation.machine.route[1].node
                    next(node for node in nodes if node.node == middle).process.ask_stop()
        assert new == MODEL.answer(PROMPT, 100)
        assert generation.machine.attempts > 1


def test_a_session_is_found_by_its_id_until_it_is_left_and_then_its_caches_are_free() -> None:
    model = IntegerModel(layer_seconds=0.0005)
    with integer_swarm(model, PARTS) as nodes, client_of(nodes) as swarm:
        with swarm.open_generation(swarm.card(swarm.find_model(None, 10))) as generation:
            assert swarm.find_generation(generation.id) is generation
            news = generation.generate(Turn(ids=PROMPT, max_tokens=3000, sampling=Sampling(), stop_ids=[]))
            assert any(isinstance(event, Delivered) for event in news)  # the first one
            assert all(count_kv(node) for node in nodes)
        assert swarm.find_generation(generation.id) is None
        wait_until(lambda: not any(count_kv(node) for node in nodes), 1, "all caches are free")


def test_how_likely_each_token_is_comes_with_it_over_any_change_of_chains() -> None:
    model = IntegerModel(layer_seconds=0.0005)
    sampling = Sampling(temperature=1.0, seed=3)
    expected = model.answer_with_scores(PROMPT, 300, sampling)
    with integer_swarm(model, ["b 0-6", "6-12 e", "6-12 e"]) as nodes, client_of(nodes) as swarm:
        generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
        told: list[tuple[int, float]] = []
        for event in generation.generate(Turn(ids=PROMPT, max_tokens=300, sampling=sampling, stop_ids=[], scores=3)):
            if isinstance(event, Delivered):
                told += zip(event.ids, (score.log_probability for score in event.scores), strict=True)
                assert all(len(score.likeliest) == 3 for score in event.scores)
                assert all(score.likeliest[0][0] == token for token, score in zip(event.ids, event.scores, strict=True))
                if len(told) == 100:
                    last = generation.machine.route[-1].node
                    next(node for node in nodes if node.node == last).stop()
        assert generation.machine.attempts > 1
    assert told == expected


def test_how_likely_a_given_answer_is_comes_once_over_any_change_of_chains() -> None:
    """Each end is killed as it tells; the values are exact, and what is drawn after the given tokens goes on from them."""
    model = IntegerModel(layer_seconds=0.002, token_seconds=0.0005)
    given = [(7 * number) % 90 for number in range(1000)]
    expected = [*zip(given, model.score(PROMPT, given), strict=True)]
    expected += model.answer_with_scores([*PROMPT, *given], 20)
    with integer_swarm(model, ["b 0-6", "6-12 e", "6-12 e"]) as nodes, client_of(nodes) as swarm:
        generation = swarm.open_generation(swarm.card(swarm.find_model(None, 10)))
        told: list[tuple[int, float]] = []
        turn = Turn(ids=PROMPT, max_tokens=1020, sampling=Sampling(), stop_ids=[], scores=0, given=given)
        killed_at = 0
        for event in generation.generate(turn):
            if isinstance(event, Delivered):
                told += zip(event.ids, (score.log_probability for score in event.scores), strict=True)
                if not killed_at:
                    killed_at = len(told)
                    last = generation.machine.route[-1].node
                    next(node for node in nodes if node.node == last).stop()
        assert 0 < killed_at < len(given)
        assert generation.machine.attempts > 1
    assert told == expected


def test_without_a_chain_the_answer_ends_and_names_what_is_missing() -> None:
    with integer_swarm(IntegerModel(layer_seconds=0.001), PARTS) as nodes, client_of(nodes) as swarm:
        turn = Turn(ids=PROMPT, max_tokens=2000, sampling=Sampling(), stop_ids=[])
        times: list[float] = []

        def answer() -> None:
            for event in swarm.open_generation(swarm.card(swarm.find_model(None, 10))).generate(turn):
                if isinstance(event, Delivered):
                    times.append(time.monotonic())
                    if len(times) == 10:
                        nodes[1].stop()

        with pytest.raises(PeerError, match="layers 4-8 missing"):
            answer()
        assert time.monotonic() - times[-1] < 10


def test_an_answer_that_waits_goes_on_once_the_missing_layers_are_back() -> None:
    model = IntegerModel(layer_seconds=0.001)
    with (
        integer_swarm(model, PARTS) as nodes,
        open_client([node.address for node in nodes], wait_seconds=60) as swarm,
    ):
        turn = Turn(ids=PROMPT, max_tokens=100, sampling=Sampling(), stop_ids=[])
        ids: list[int] = []
        late = make_node(model, "4-8", [nodes[0].address])
        try:
            for event in swarm.open_generation(swarm.card(swarm.find_model(None, 10))).generate(turn):
                if isinstance(event, Delivered):
                    ids += event.ids
                    if len(ids) == 10:
                        nodes[1].stop()
                        threading.Timer(9, late.start).start()
            assert ids == model.answer(PROMPT, 100)
        finally:
            late.stop()


def start_unplaced(order: list[int], budgets: list[int]) -> list[IntegerNode]:
    first = make_node(MODEL, None, budget_layers=budgets[0])
    others = [make_node(MODEL, None, [first.address], budget_layers=budget) for budget in budgets[1:]]
    nodes = [first, *others]
    for index in order:
        nodes[index].start()
    return nodes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_nodes_that_start_together_cover_the_model(seed: int) -> None:
    """Five swarms of three nodes at a time, in any order, twenty in all."""
    rng = random.Random(seed)
    swarms = [start_unplaced(rng.sample(range(3), 3), rng.choice([[5, 5, 5], [4, 6, 4], [7, 3, 4]])) for _ in range(5)]
    started = time.monotonic()

    def is_covered(nodes: list[IntegerNode]) -> bool:
        held = set()
        for node in nodes:
            for claim in list(node.process.machine.claims.by_model.values()):
                held.update(claim.serving.cells)
        return held == set(parse_part("f", MODEL.layers).cells)

    try:
        for nodes in swarms:
            wait_until(lambda nodes=nodes: is_covered(nodes), 10 - (time.monotonic() - started), "covered within 10 s")
    finally:
        for nodes in swarms:
            for node in nodes:
                node.stop()

"""Which layers of a part come from disk: as few as make it fit, spread between the others, or so many as were asked for."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from swarm.decoder.device import Cpu
from swarm.errors import RequestError
from swarm.models import ModelKey
from swarm.node.compute.models import LocalWeights
from swarm.node.hops.batching import LARGEST_CHUNK, SMALLEST_CHUNK, chunk_tokens
from swarm.node.residence import ALL_KEPT, Loading, Residence, keep_most, settle, spread
from swarm.node.shell.build import Promise, promise_memory, read_offer
from swarm.node.shell.ledger import Ledger
from swarm.node.this_node import LocalModel
from swarm.parts import Part, parse_part, part_of
from swarm.plan.costs import CellCosts
from tests.layouts import maker_of

LAYERS = 10
PART = parse_part("b 0-10", LAYERS)
LAYER, REST = 100, 70  # bytes of a layer's weights, and of all else
NEEDED = LAYERS * LAYER + REST
LAYER_KV = 7  # bytes, besides its weights


def settle_in(budget: int, asked: int | None = None) -> Residence:
    return settle("m", PART, NEEDED, LAYER, budget, asked)


def test_what_fits_is_kept() -> None:
    assert settle_in(NEEDED) == ALL_KEPT
    assert settle_in(NEEDED, 0) == ALL_KEPT


@pytest.mark.parametrize(
    ("lacking", "streamed", "buffers"),
    [(1, 2, 1), (100, 2, 1), (101, 3, 1), (300, 4, 1), (301, 6, 2), (650, 9, 2), (700, 9, 2), (701, 9, 1), (800, 9, 1)],
)
def test_as_few_as_possible_are_streamed(lacking: int, streamed: int, buffers: int) -> None:
    """Buffers take the place of layers."""
    found = settle_in(NEEDED - lacking)
    assert (len(found.streamed), found.buffers) == (streamed, buffers)
    assert NEEDED - found.spared_bytes(PART.layers, LAYER) <= NEEDED - lacking


def test_they_lie_between_the_others() -> None:
    assert spread(range(10), 3) == [2, 5, 9]
    assert spread(range(10), 9) == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert spread([4, 5, 6], 3) == [4, 5, 6]
    for count in range(1, 11):
        assert len(set(spread(range(10), count))) == count


def test_so_many_are_streamed_as_were_asked_for() -> None:
    assert settle_in(NEEDED, 10) == Residence(tuple(range(10)), 2)
    assert settle_in(NEEDED, 4) == Residence((1, 4, 6, 9), 1)
    assert settle_in(NEEDED, 1) == Residence((9,), 1)


@pytest.mark.parametrize(
    ("budget", "asked", "message"),
    [
        (NEEDED, 11, '--stream 11 is more than the 10 layers of "b 0-10" of m'),
        (NEEDED - 801, None, 'part "b 0-10" of m needs 1.07 KB with its KV, and 270 B with 9 of its layers streamed'),
        (NEEDED - 1, 0, 'part "b 0-10" of m needs'),
        (NEEDED - 201, 3, 'part "b 0-10" of m needs'),
    ],
)
def test_what_fits_in_no_way_is_refused(budget: int, asked: int | None, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        settle_in(budget, asked)
    assert message in str(caught.value)


def test_a_model_takes_what_its_kept_layers_and_buffers_do() -> None:
    costs = CellCosts(LAYERS, 10, 140, 20)
    local, residence = LocalModel(ModelKey("1" * 32, ""), "m", costs, 40), Residence((1, 3, 5, 7), 2)
    assert local.bytes_of(PART, residence) == 10 + 10 * 140 - 2 * 100
    assert local.bytes_of(parse_part("0-4", LAYERS), residence) == 4 * 140
    assert [residence.count_read(parse_part(spec, LAYERS).layers) for spec in ("f", "0-6", "0-4")] == [4, 3, 0]


def test_a_part_that_reads_too_much_to_be_fast_is_told_before_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    maker_of("7b").save_sepweight("7b", weights)
    offer = read_offer([weights], "cpu", None, "f")
    (one,) = offer.models.values()
    layer = one.memory.weight_costs.layer
    for rate, streamed, seconds in ((layer * 10.0, "3", "0.3"), (layer * 13.0, "3", ""), (layer / 2, "1", "")):
        monkeypatch.setattr(LocalWeights, "measure_source", lambda self, rate=rate: rate)
        doubts = promise_memory(offer, "1GB", Ledger(None, "cpu"), streamed).doubts
        assert [f"it takes {seconds} s at least" in doubt for doubt in doubts] == [True] * bool(seconds)
    monkeypatch.undo()
    assert one.measure_source() == 0.0, "so little tells nothing of a disk"


def test_what_cannot_be_packed_is_kept_and_the_user_hears_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a node serves what it can keep, as if there were no disk."""
    weights = tmp_path / "weights"
    maker_of("7b").save_sepweight("7b", weights)
    offer = read_offer([weights], "cpu", None, None)
    (one,) = offer.models.values()

    def promise(memory: int) -> Promise:
        return promise_memory(offer, f"{memory}", Ledger(None, "cpu"), "auto")

    needed = one.memory.needed(one.present)
    assert promise(needed - 1).doubts == []
    assert one.costs(may_stream=True).weight > 0
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert one.costs(may_stream=True).weight == 0
    assert promise(needed + 1).doubts == []
    (doubt,) = promise(needed - 1).doubts
    assert doubt.endswith(f"{weights} cannot be written")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    (doubt,) = promise(needed - 1).doubts
    assert "has room for 1 KB, not for" in doubt


def test_what_is_loaded_stays_and_what_comes_beside_it_has_room_while_it_is_packed() -> None:
    """Ten layers of 100 and their KV of 10, with room for six of them; four are there, two of these from disk."""
    costs = CellCosts(LAYERS, 0, 110, 0, weight=100)
    budget, all_layers = 660, parse_part("0-10", LAYERS)
    fresh = keep_most(all_layers, costs, budget, ALL_KEPT, ())
    assert fresh == Residence(tuple(spread(range(10), 7)), 2)
    grown = keep_most(all_layers, costs, budget, Residence((1, 2), 2), range(4))
    assert grown is not None
    assert len(grown.streamed) == 8, "one more than at the start"
    assert not {0, 3} & set(grown.streamed), "what is kept stays"
    settled = keep_most(all_layers, costs, budget, grown, range(10))
    assert settled is not None
    assert len(settled.streamed) == 7
    assert set(settled.streamed) < set(grown.streamed)
    tight = keep_most(all_layers, costs, 300, Residence((1, 2), 1), range(4))
    assert tight == Residence((1, 2, 3, 4, 5, 6, 7, 8, 9), 1), "or it would fit in no way"
    assert keep_most(all_layers, costs, 299, ALL_KEPT, ()) is None


def test_what_buffers_hold_is_not_loaded_again_where_there_is_no_room_beside_them() -> None:
    costs = CellCosts(LAYERS, 0, 110, 0, weight=100)
    part, now = parse_part("0-4", LAYERS), Residence((0, 1, 2), 2)
    assert keep_most(part, costs, 640, now, range(4)) == ALL_KEPT
    held = keep_most(part, costs, 639, now, range(4))
    assert held is not None
    assert (len(held.streamed), held.buffers, held.count_read(part.layers)) == (2, 2, 0)
    assert 3 not in held.streamed


class Card(Cpu):
    name = key = "cuda:0"
    is_host = False


def test_a_card_streams_as_a_processor_does(tmp_path: Path) -> None:
    maker_of("7b").save_sepweight("7b", tmp_path / "weights")

    def promise(stream: str, memory: str) -> Promise:
        offer = read_offer([tmp_path / "weights"], "cpu", None, "f")
        return promise_memory(replace(offer, device=Card()), memory, Ledger(None, "cuda:0"), stream)

    assert set(promise("auto", "1GB").residences.values()) == {ALL_KEPT}
    assert set(promise("3", "1GB").residences.values()) == {Residence((0, 1, 3), 1)}
    with pytest.raises(RequestError, match=r"pass a smaller --part, or --memory .* or more"):
        promise("auto", "1KB")


def test_a_chunk_of_a_prompt_is_as_long_as_a_pass_over_what_is_streamed() -> None:
    assert chunk_tokens(0.001, None) == 100
    assert chunk_tokens(0.001, None, chunk_seconds=0.08) == 20
    assert chunk_tokens(0.001, None, chunk_seconds=0.25) == 250
    assert chunk_tokens(0.001, None, chunk_seconds=9.0) == LARGEST_CHUNK
    assert chunk_tokens(0.001, 0.01, chunk_seconds=0.25) == SMALLEST_CHUNK


# While it is loaded ---------------------------------------------------------------------------------------------------


def draw_move(seed: int) -> tuple[int, Part, Part, Residence, Residence]:
    """A budget, what is loaded of a model, that and what comes, and how both are held."""
    rng = random.Random(seed)
    while True:
        layers, budget = rng.randint(6, 40), rng.randint(3, 12) * LAYER + rng.randint(1, 40) * LAYER_KV
        costs = CellCosts(layers, 0, LAYER + LAYER_KV, 0, weight=LAYER)
        numbers = sorted(rng.sample(range(layers), rng.randint(2, layers)))
        loaded = part_of((number + 1 for number in numbers[: rng.randint(1, len(numbers) - 1)]), layers)
        union = part_of((number + 1 for number in numbers), layers)
        now = keep_most(loaded, costs, budget, ALL_KEPT, ())
        then = None if now is None else keep_most(union, costs, budget, now, loaded.layers)
        if now is not None and then is not None and then.streamed:
            return budget, loaded, union, now, then


@pytest.mark.parametrize("block", range(10))
def test_a_move_stays_within_the_memory_also_while_it_loads(block: int) -> None:
    """What was kept and will not be is given up first, where all of it would not fit beside what comes."""
    thinned = 0
    for seed in range(block * 200, block * 200 + 200):
        budget, loaded, union, now, then = draw_move(seed)
        costs = CellCosts(union.depth, 0, LAYER + LAYER_KV, 0, weight=LAYER)
        local = LocalModel(ModelKey("m", ""), "m", costs)
        loading = Loading(now, loaded.layers, then, union.layers)
        if local.bytes_while(loading, union) > budget and (thinner := loading.thin_out()) is not None:
            thinned += 1
            thinning = Loading(now, loaded.layers, thinner, loaded.layers)
            assert local.bytes_while(thinning, loaded) <= budget
            after = keep_most(union, costs, budget, thinner, loaded.layers)
            assert after is not None
            loading = Loading(thinner, loaded.layers, after, union.layers)
        if len(loading.kept) > 1:
            assert local.bytes_while(loading, union) <= budget, (seed, now, then)
    assert thinned > 10

"""The same bits however a sequence is cut, whatever is computed beside it, and wherever the layers lie: every variant.

On CPUs of one kind a replay, a move or other batch mates therefore change no token, in bfloat16 as in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart
from swarm.falcon import init_part
from tests.checkpoints import VARIANTS, save_sepweight

DTYPES = [torch.float32, torch.bfloat16]
LENGTH = 200
CUTS: dict[str, list[int]] = {
    "ones": [1] * LENGTH,
    "twos": [2] * 100,
    "threes": [3] * 66 + [2],
    "33": [33] * 6 + [2],
    "64": [64] * 3 + [8],
    "a prompt, then one by one": [100] + [1] * 100,
    "one, then the rest": [1, LENGTH - 1],
    "odd": [35, 67, 5, 31, 1, 61],
    "around a block": [127, 1, 1, 71],
    "over a block": [125, 6, 69],
}
LONG = 1300
LONG_CUTS: dict[str, list[int]] = {
    "512": [512, 512, 276],
    "100": [100] * 13,
    "33": [33] * 39 + [13],
    "odd": [1, 7, 505, 2, 480, 33, 1, 271],
    "a prompt, then one by one": [1100] + [1] * 200,
}


@pytest.fixture(scope="module", params=VARIANTS)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("weights") / request.param
    save_sepweight(request.param, directory)
    return directory


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def full(request: pytest.FixtureRequest, weights: Path) -> DecoderPart:
    return init_part(weights, "f", dtype=request.param)


def make_ids(count: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 90, (count,), generator=torch.Generator().manual_seed(seed))


def in_pieces(part: DecoderPart, ids: Tensor, cuts: Sequence[int], reserve: int | None = None) -> Tensor:
    assert sum(cuts) == len(ids)
    cache = part.new_cache(reserve)
    return torch.cat([part(piece, cache) for piece in ids.split(list(cuts))])


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_any_cut_gives_the_bits_of_one_pass(full: DecoderPart, cuts: list[int]) -> None:
    ids = make_ids(LENGTH)
    assert torch.equal(in_pieces(full, ids, cuts), full(ids))


@pytest.mark.parametrize("cuts", LONG_CUTS.values(), ids=LONG_CUTS)
def test_any_cut_of_a_long_sequence_gives_the_bits_of_one_pass(full: DecoderPart, cuts: list[int]) -> None:
    ids = make_ids(LONG)
    assert torch.equal(in_pieces(full, ids, cuts), full(ids))


@pytest.mark.parametrize("reserve", [200, 255, 256, 2000])
def test_what_a_session_reserves_changes_no_bit(full: DecoderPart, reserve: int) -> None:
    ids = make_ids(LENGTH)
    assert torch.equal(in_pieces(full, ids, [90, *[1] * 110], reserve), full(ids))


@pytest.mark.parametrize("reserve", [40, 127, 128])
def test_what_a_short_session_reserves_changes_no_bit(full: DecoderPart, reserve: int) -> None:
    ids = make_ids(40)
    assert torch.equal(in_pieces(full, ids, [9, *[1] * 31], reserve), full(ids))


def test_a_truncated_cache_goes_on_as_if_the_rest_had_never_been(full: DecoderPart) -> None:
    ids, other = make_ids(LENGTH), make_ids(700, seed=2)
    cache = full.new_cache()
    full(torch.cat((ids[:50], other)), cache)
    cache.truncate(50)
    assert torch.equal(full(ids[50:], cache), full(ids)[50:])


def test_batch_mates_change_no_bit(full: DecoderPart) -> None:
    sessions = [make_ids(length, seed) for seed, length in enumerate([13, 4, 1, 130, 520, 33])]
    alone = [full(ids) for ids in sessions]
    spans = [Span(full.new_cache(), len(ids)) for ids in sessions]
    assert full.head is not None
    together = full.head(full.run_layers(full.enter(torch.cat(sessions)), spans))
    for expected, actual in zip(alone, together.split([len(ids) for ids in sessions]), strict=True):
        assert torch.equal(actual, expected)
    # and one token further, where every session is a row of the batch
    further = full.head(full.run_layers(full.enter(torch.tensor([33] * 6)), [Span(span.cache, 1) for span in spans]))
    for row, ids in zip(further, sessions, strict=True):
        assert torch.equal(row, full(torch.cat((ids, torch.tensor([33]))))[-1])


def test_split_at_every_layer_boundary_equals_whole(weights: Path, full: DecoderPart) -> None:
    ids = make_ids(LENGTH)
    expected = full(ids)
    layers = full.decoder.layers
    for boundary in range(layers + 1):
        first = init_part(weights, f"b 0-{boundary}" if boundary else "b", dtype=full.dtype)
        second = init_part(weights, f"{boundary}-{layers} e" if boundary < layers else "e", dtype=full.dtype)
        assert torch.equal(second(first(ids)), expected)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def with_all_threads(full: DecoderPart) -> list[Tensor]:
    return [in_pieces(full, make_ids(LENGTH), cuts) for cuts in ([LENGTH], CUTS["odd"])]


def test_the_number_of_threads_changes_no_bit(
    full: DecoderPart, with_all_threads: list[Tensor], one_thread: None
) -> None:
    assert torch.get_num_threads() == 1
    assert all(torch.equal(full(make_ids(LENGTH)), one) for one in with_all_threads)


def test_the_cuts_are_cuts() -> None:
    assert all(sum(cuts) == LENGTH for cuts in CUTS.values())
    assert all(sum(cuts) == LONG for cuts in LONG_CUTS.values())
    assert len({tuple(cuts) for cuts in itertools.chain(CUTS.values(), LONG_CUTS.values())}) == 15

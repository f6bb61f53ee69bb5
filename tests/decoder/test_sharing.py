"""Which sessions share a call of attention, and that it changes none of their bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.decoder import layer
from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart
from swarm.decoder.sharing import MOST_OWN_BYTES, MOST_SHARED_BYTES, share_calls
from swarm.loading import init_part
from tests.llama.members import save_sepweight

KEY_BYTES = 1024


def test_who_takes_equally_many_keys_shares_a_call() -> None:
    assert share_calls([64, 128, 64, 64, 128], KEY_BYTES) == [[0, 2, 3], [1, 4]]


def test_who_may_not_share_is_alone() -> None:
    assert share_calls([0, 64, 0, 64], KEY_BYTES) == [[0], [1, 3], [2]]


def test_nothing_is_shared_without_sessions() -> None:
    assert share_calls([], KEY_BYTES) == []


def test_what_takes_longer_to_bring_together_than_a_call_has_its_own() -> None:
    most = MOST_OWN_BYTES // KEY_BYTES
    assert share_calls([most + 1, most + 1, most, most], KEY_BYTES) == [[0], [1], [2, 3]]


@pytest.mark.parametrize("keys", [64, 320, MOST_OWN_BYTES // KEY_BYTES])
@pytest.mark.parametrize("sessions", [1, 2, 16, 63])
def test_no_call_brings_too_much_together_and_all_bring_about_as_much(keys: int, sessions: int) -> None:
    calls = share_calls([keys] * sessions, KEY_BYTES)
    assert sorted(span for call in calls for span in call) == list(range(sessions))
    sizes = [len(call) for call in calls]
    assert max(sizes) * keys * KEY_BYTES <= MOST_SHARED_BYTES
    assert max(sizes) - min(sizes) <= 1


LENGTHS = [70, 3, 100, 128, 40, 127, 63, 64, 300, 5, 70]  # of what sessions have cached
RESERVES = [400, 10, 400, 400, 45, 128, 64, 400, 400, 400, 90]
NEW = [1, 1, 1, 1, 1, 9, 1, 1, 1, 1, 1]  # positions a step: one is in the middle of its prompt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (12, 3), (2, 2), (4, 4)])
def test_who_shares_a_call_has_the_bits_it_has_alone(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "head_dim": head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": 2,
    }
    save_sepweight("llama", tmp_path / "weights", **changes)
    part = init_part(tmp_path / "weights", "f", dtype=dtype)
    alone = [run_steps(part, [session])[0] for session in range(len(LENGTHS))]
    shared: list[int] = []
    attend = layer.attend_together

    def attend_counted(*args: Any) -> Tensor:
        shared.append(len(args[2]))
        return attend(*args)

    monkeypatch.setattr(layer, "attend_together", attend_counted)
    together = run_steps(part, list(range(len(LENGTHS))))
    assert [torch.equal(*both) for both in zip(alone, together, strict=True)] == [True] * len(LENGTHS)
    assert sum(shared) > len(LENGTHS), "it was not this that was tried"


def run_steps(part: DecoderPart, sessions: list[int]) -> list[Tensor]:
    """What each has after three steps together, [3 steps of new positions, hidden]."""
    generators = [torch.Generator().manual_seed(session) for session in sessions]
    caches = [part.new_cache(RESERVES[session]) for session in sessions]
    for session, generator, cache in zip(sessions, generators, caches, strict=True):
        part.run_layers(
            part.enter(torch.randint(90, (LENGTHS[session],), generator=generator)), [Span(cache, LENGTHS[session])]
        )
    found: list[list[Tensor]] = [[] for _ in sessions]
    news = [NEW[session] for session in sessions]
    for _ in range(3):
        ids = [torch.randint(90, (new,), generator=generator) for new, generator in zip(news, generators, strict=True)]
        spans = [Span(cache, new) for cache, new in zip(caches, news, strict=True)]
        for rows, one in zip(found, part.run_layers(part.enter(torch.cat(ids)), spans).split(news), strict=True):
            rows.append(one)
    return [torch.cat(rows) for rows in found]

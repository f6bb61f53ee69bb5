"""What is easily done wrongly, done wrongly: each shows in the logits of a tiny random member."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.decoder import layer as layers
from swarm.decoder.description import Decoder, LayerKind, Rope
from swarm.decoder.layer import Layer
from swarm.decoder.loading import init_part
from swarm.llama.family import LlamaFamily
from tests.llama.members import save_sepweight

IDS = torch.randint(0, 90, (70,), generator=torch.Generator().manual_seed(1))
SHOWN = 1e-3  # ten times what agreement may differ by


class Misread(LlamaFamily):
    """Reads a config, and then something else out of it."""

    def __init__(self, change: Callable[[Decoder], Decoder]) -> None:
        self._change = change

    def read(self, raw: Mapping[str, Any]) -> Decoder:
        return self._change(super().read(raw))


def with_rope(**changes: Any) -> Callable[[Decoder], Decoder]:
    return lambda decoder: replace(decoder, ropes=(replace(decoder.ropes[0], **changes),))


def with_kinds(change: Callable[[list[LayerKind]], list[LayerKind]]) -> Callable[[Decoder], Decoder]:
    def changed(decoder: Decoder) -> Decoder:
        kinds = [decoder.kind(number) for number in range(decoder.layers)]
        return replace(decoder, kinds=tuple(change(kinds)))

    return changed


def wider(kinds: list[LayerKind]) -> list[LayerKind]:
    return [replace(kind, window=kind.window and kind.window + 1) for kind in kinds]


def without_bias(decoder: Decoder) -> Decoder:
    return replace(decoder, slots={role: replace(slot, has_bias=False) for role, slot in decoder.slots.items()})


def without(role: str) -> Callable[[Decoder], Decoder]:
    return lambda one: replace(one, slots={name: slot for name, slot in one.slots.items() if name != role})


# what is wrong → the member that shows it, and how it is read
MISREAD: dict[str, tuple[str, Callable[[Decoder], Decoder]]] = {
    "llama3 scaling left out": ("llama, wide heads", lambda one: replace(one, ropes=(Rope(rotated=16),))),
    "linear scaling left out": ("llama, linear", with_rope(kind="default")),
    "yarn's scale left out": ("llama, one kv head", with_rope(scale=1.0)),
    "yarn not truncated": ("llama, one kv head", with_rope(truncate=False)),
    "longrope's scale left out": ("phi3, longrope", with_rope(scale=1.0)),
    "another theta": ("qwen2", with_rope(theta=1e6)),
    "scores scaled by hidden / heads": ("qwen3", lambda one: replace(one, attention_scale=(48 / 6) ** -0.5)),
    "window off by one": ("mistral", with_kinds(wider)),
    "the first layers slide, not the last": ("qwen2, windows", with_kinds(lambda kinds: kinds[::-1])),
    "biases of queries, keys and values left out": ("qwen2", without_bias),
    "rotated where nothing is": ("smollm3", with_kinds(lambda kinds: [LayerKind()] * len(kinds))),
    "norms that multiply by w alone": ("gemma", lambda one: replace(one, norm="rms")),
    "embedding not scaled": ("gemma", lambda one: replace(one, embedding_scale=1.0)),
    "local layers slowed, too": ("gemma3", lambda one: replace(one, ropes=(one.ropes[0], one.ropes[0]))),
    "no norm after attention": ("gemma3", without("after_attention")),
    "no norm after the MLP": ("gemma3", without("after_mlp")),
    "scores scaled by the width of a head": ("gemma3", lambda one: replace(one, attention_scale=None)),
    "scores without a cap": ("gemma2", lambda one: replace(one, attention_cap=None)),
    "logits without a cap": ("gemma2", lambda one: replace(one, logit_cap=None)),
    "caps exchanged": ("gemma2", lambda one: replace(one, attention_cap=one.logit_cap, logit_cap=one.attention_cap)),
    "the other layers slide": ("gemma2", with_kinds(lambda kinds: kinds[::-1])),
    "residual multiplier left out": ("granite", lambda one: replace(one, residual_scale=1.0)),
    "embedding multiplier left out": ("granite", lambda one: replace(one, embedding_scale=1.0)),
    "logits not divided": ("granite", lambda one: replace(one, logit_scale=1.0)),
    "another epsilon": ("llama", lambda one: replace(one, epsilon=1e-2)),
    "another activation": ("llama", lambda one: replace(one, activation="gelu")),
}


def tiled(decoder: Decoder, turned: Tensor) -> tuple[Tensor, Tensor]:
    queries = turned[:, : decoder.heads].view(turned.shape[0], -1, decoder.kv_heads, decoder.head_dim)
    return queries.transpose(1, 2), turned[:, decoder.heads :, 0]


def by_neighbours(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (table[..., : table.shape[-1] // 2].repeat_interleave(2, -1) for table in tables)
    swapped = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos + swapped * sin


def activated_up(layer: Layer, x: Tensor) -> Tensor:
    gate, up = layer.up(x).chunk(2, dim=-1)
    return layer.down(gate * layer.activation(up))


@contextmanager
def norm_after_rotation() -> Iterator[None]:
    """Each layer's norms of queries and keys, taken away from where they belong."""
    rotate, attend = layers.rotate, Layer._attend
    late: list[Any] = []

    def attend_later(layer: Layer, *args: Any) -> Tensor:
        late[:] = [layer.head_norm]
        layer.head_norm = None
        out = attend(layer, *args)
        (layer.head_norm,) = late
        return out

    def rotate_first(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        return late[0](rotate(x, tables))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "rotate", rotate_first)
        patch.setattr(Layer, "_attend", attend_later)
        yield


@contextmanager
def replaced(owner: object, name: str, made: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, made)
        yield


# what is wrong → the member that shows it, and what is computed otherwise
MISCOMPUTED: dict[str, tuple[str, Callable[[], Any]]] = {
    "kv heads tiled": ("llama", lambda: replaced(layers, "part_queries", tiled)),
    "neighbouring dims rotated": ("llama", lambda: replaced(layers, "rotate", by_neighbours)),
    "the activation of what goes up": ("llama", lambda: replaced(Layer, "_mlp", activated_up)),
    "heads' norms after rotation": ("qwen3", norm_after_rotation),
}


@pytest.mark.parametrize("mistake", MISREAD)
def test_what_is_misread_shows(mistake: str, tmp_path: Path) -> None:
    member, change = MISREAD[mistake]
    model = save_sepweight(member, tmp_path / "weights")
    part = init_part(Misread(change), tmp_path / "weights", "f")
    with torch.inference_mode():
        assert (part(IDS) - model(IDS[None]).logits[0]).abs().max() > SHOWN


@pytest.mark.parametrize("mistake", MISCOMPUTED)
def test_what_is_miscomputed_shows(mistake: str, tmp_path: Path) -> None:
    member, planted = MISCOMPUTED[mistake]
    model = save_sepweight(member, tmp_path / "weights")
    part = init_part(LlamaFamily(), tmp_path / "weights", "f")
    with torch.inference_mode():
        expected = model(IDS[None]).logits[0]
        assert torch.allclose(part(IDS), expected, atol=1e-4, rtol=0)
        with planted():
            assert (part(IDS) - expected).abs().max() > SHOWN

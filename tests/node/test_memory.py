"""What a batch takes while it runs is what the account says, on every layout at its true size."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from swarm.decoder.description import Decoder
from swarm.decoder.device import Cpu
from swarm.decoder.layer import Span
from swarm.decoder.part import DecoderPart
from swarm.decoder.shelf import ResidentShelf
from swarm.families import family_of
from swarm.messages.sampling import Sampling
from swarm.node.batches import LARGEST_CHUNK, MOST_SESSIONS, SAMPLED_ROWS
from swarm.node.compute.memory import running_bytes
from swarm.parts import Part
from swarm.sampling import Draw, Draws
from tests.alive import AliveBytes, Storages
from tests.bare_layers import make_head, make_layer

EVERY_FILTER = Sampling(temperature=1.0, top_k=9, top_p=0.9, typical_p=0.9, repetition_penalty=1.1)
DRAWS = Draws([Draw(EVERY_FILTER, 7, [3, 4])] * SAMPLED_ROWS)

SHAPES = {
    "7b": {"hidden_size": 4544, "num_attention_heads": 71, "multi_query": True},
    "40b": {"hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8, "new_decoder_architecture": True},
    "180b": {"hidden_size": 14848, "num_attention_heads": 232, "num_kv_heads": 8, "new_decoder_architecture": True},
    "11b": {
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_kv_heads": 8,
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 1,
        "max_position_embeddings": 8192,
    },
    "rw": {
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "multi_query": False,
        "alibi": True,
        "parallel_attn": False,
        "bias": True,
    },
    "sequential": {"hidden_size": 4544, "num_attention_heads": 71, "multi_query": True, "parallel_attn": False},
    "llama 8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    },
    "mistral 7b": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
    "qwen3 32b": {
        "model_type": "qwen3",
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    },
    "gemma2 27b": {
        "model_type": "gemma2",
        "hidden_size": 4608,
        "intermediate_size": 36864,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "max_position_embeddings": 8192,
    },
}


def shape(name: str) -> Decoder:
    config = {"model_type": "falcon", "vocab_size": 65024, "num_hidden_layers": 1} | SHAPES[name]
    return family_of(config).read(config)


def run_batch(config: Decoder, lengths: list[int]) -> Storages:
    """What is allocated while one layer and the head run on steps of so many positions at the end of the context."""
    dtype = torch.bfloat16
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():

        def make(size: tuple[int, ...]) -> torch.Tensor:
            return torch.empty(size, dtype=dtype)

        layer, head = make_layer(config, 0, make, Cpu()), make_head(config, make, Cpu())
        part = DecoderPart(
            config, Part(1, ranges=((0, 1),), end=True), None, ResidentShelf([layer]), None, dtype, Cpu()
        )
        spans: list[Span] = []
        for length in lengths:
            cache = part.new_cache()
            cache.write(0, torch.empty(2, config.kv_heads, config.context, config.head_dim, dtype=dtype))
            cache.advance(config.context - length)
            spans.append(Span(cache, length))
        hidden = torch.empty(sum(lengths), config.hidden, dtype=dtype)
        with AliveBytes() as alive:
            out = DecoderPart.run_layers.__wrapped__(
                part, hidden, spans
            )  # in inference mode what is inside is not seen
            DRAWS.choose(head(out[:SAMPLED_ROWS]), DRAWS.tensors, can_count=False)
    return alive.storages


CHUNK = [LARGEST_CHUNK]
FULL = [*CHUNK, *[1] * MOST_SESSIONS]


@pytest.mark.parametrize(("name", "lengths"), [*((name, CHUNK) for name in SHAPES), ("180b", FULL), ("rw", FULL)])
def test_the_account_covers_the_largest_batches(name: str, lengths: list[int]) -> None:
    config = shape(name)
    alive, counted = run_batch(config, lengths), running_bytes(config, 2)
    assert 0.3 * counted < alive.peak <= counted


@pytest.mark.parametrize("name", SHAPES)
def test_no_mask_is_larger_than_positions_by_keys(name: str) -> None:
    """Nothing is larger than a chunk's widest activations or its mask, however many heads there are."""
    config = shape(name)
    widest = max(config.context, config.mlp_width, config.fused_width)
    assert run_batch(config, CHUNK).largest <= 2 * LARGEST_CHUNK * widest

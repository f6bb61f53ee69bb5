"""How a node loads a large model: seconds, the most memory that it holds meanwhile, and what it says then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.bench.checkpoint import make_weights, read_decoder
from swarm.bench.swarm_side import SwarmSide
from swarm.decoder.device import Cpu
from swarm.decoder.forms import Forms
from swarm.decoder.schemes import quantisation_named
from swarm.node.compute.memory import model_memory
from swarm.parts import whole
from swarm.sepweight.manifest import read_manifest

PORT = 19700
LOOK_SECONDS = 0.05
# Published shapes, as a checkpoint's config.json has them.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-13b": {
        "model_type": "llama",
        "num_hidden_layers": 40,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
    },
    "falcon-7b": {
        "model_type": "falcon",
        "num_hidden_layers": 32,
        "hidden_size": 4544,
        "num_attention_heads": 71,
        "vocab_size": 65024,
        "max_position_embeddings": 2048,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "eos_token_id": 11,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What to run. layers: fewer than the model's; None for all."""

    model: str
    form: str | None
    layers: int | None = None
    prompt_tokens: int = 64
    new_tokens: int = 16


def run(plan: LoadPlan, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Every figure by name. folder: room for the plain weights. Raises RequestError for a form that there is not."""
    config = dict(CONFIGS[plan.model])
    config["num_hidden_layers"] = plan.layers or config["num_hidden_layers"]
    weights = folder / "weights"
    say("making the checkpoint")
    make_weights(config, "bfloat16", weights)
    manifest, decoder = read_manifest(weights), read_decoder(weights)
    forms = Forms(manifest, weights, quantisation_named(plan.form) if plan.form else None)
    memory = model_memory(manifest, decoder, forms, None, Cpu())
    options = ["--quantize", plan.form] if plan.form else []
    say("starting a node")
    started = time.perf_counter()
    watch = _Watch(SwarmSide(weights, [whole(decoder.layers)], folder / "node", PORT, options))
    with watch.side as side:
        seconds = time.perf_counter() - started
        watch.stop()
        after = side.anonymous_bytes()
        stream = side.measure_stream(plan.prompt_tokens, plan.new_tokens, 0)
        again = side.measure_stream(plan.prompt_tokens, plan.new_tokens, 1)
    return {
        "weights_bytes": memory.weights(whole(decoder.layers)),
        "plain_layer_bytes": manifest.files["mid.00000"].bytes,
        "load_seconds": seconds,
        "peak_anonymous_bytes": watch.peak,
        "anonymous_bytes_after": after,
        "first_prompt_tokens_per_second": stream.prompt_tokens_per_second,
        "prompt_tokens_per_second": again.prompt_tokens_per_second,
        "decode_tokens_per_second": again.decode_tokens_per_second,
    }


class _Watch:
    """The most memory that nodes hold at a moment, looked at while they load."""

    def __init__(self, side: SwarmSide) -> None:
        self.side = side
        self.peak = 0
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            self.peak = max(self.peak, self.side.anonymous_bytes())

    def stop(self) -> None:
        self._is_over.set()

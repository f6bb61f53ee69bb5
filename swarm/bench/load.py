"""How a node loads a large model: seconds, the most memory that it holds meanwhile, and what it says then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarm.bench.checkpoint import make_weights, read_decoder
from swarm.bench.rounds import measure_rounds
from swarm.bench.shapes import CONFIGS
from swarm.bench.swarm_side import SwarmSide
from swarm.decoder.device import Cpu
from swarm.decoder.forms import Forms
from swarm.decoder.schemes import quantisation_named
from swarm.families import family_named
from swarm.loading import init_part
from swarm.node.compute.memory import model_memory
from swarm.parts import Part, whole
from swarm.sepweight.manifest import read_manifest
from swarm.sepweight.requantise import quantise

PORT = 19700
LOOK_SECONDS = 0.05
ROUNDS = 5


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
    weights = _make_weights(plan, folder, say)
    manifest, decoder = read_manifest(weights), read_decoder(weights)
    forms = Forms(manifest, weights, quantisation_named(plan.form) if plan.form else None)
    memory = model_memory(manifest, decoder, forms, None, Cpu())
    options = ["--quantize", plan.form] if plan.form else []
    say("starting a node that holds no matrix, and one that holds all")
    parts = [Part(decoder.layers, begin=True), whole(decoder.layers)]
    watch = _Watch(SwarmSide(weights, parts, folder / "node", PORT, options))
    with watch.side as side:
        watch.stop()
        after = side.anonymous_bytes(1)
        empty = side.anonymous_bytes() - after
        stream = side.measure_stream(plan.prompt_tokens, plan.new_tokens, 0)
        again = side.measure_stream(plan.prompt_tokens, plan.new_tokens, 1)
    return {
        "weights_bytes": memory.weights(whole(decoder.layers)),
        "plain_layer_bytes": manifest.files["mid.00000"].bytes,
        "load_seconds": side.ready_seconds[1],
        "empty_anonymous_bytes": empty,
        "peak_anonymous_bytes": watch.peak,
        "anonymous_bytes_after": after,
        "first_prompt_tokens_per_second": stream.prompt_tokens_per_second,
        "prompt_tokens_per_second": again.prompt_tokens_per_second,
        "decode_tokens_per_second": again.decode_tokens_per_second,
    }


def run_stored(plan: LoadPlan, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """How long layers take that are stored in the plan's form, and plain ones in turn; files cached. Likewise."""
    assert plan.form is not None
    weights = _make_weights(plan, folder, say)
    say("storing it so")
    manifest, decoder = read_manifest(weights), read_decoder(weights)
    stored = folder / "stored"
    quantise(weights, stored, family_named(manifest.family, weights), quantisation_named(plan.form))

    def time_loading(directory: Path) -> float:
        start = time.perf_counter()
        init_part(directory, Part(decoder.layers, ranges=((0, decoder.layers),)))
        return time.perf_counter() - start

    def measure(number: int) -> dict[str, float]:
        plain, smaller = time_loading(weights), time_loading(stored)
        return {
            "plain_layers_seconds": plain,
            "stored_layers_seconds": smaller,
            "stored_layers_ratio": smaller / plain,
        }

    return measure_rounds(ROUNDS, measure, say)


def _make_weights(plan: LoadPlan, folder: Path, say: Callable[[str], None]) -> Path:
    config = dict(CONFIGS[plan.model])
    config["num_hidden_layers"] = plan.layers or config["num_hidden_layers"]
    say("making the checkpoint")
    make_weights(config, "bfloat16", folder / "weights")
    return folder / "weights"


class _Watch:
    """The most memory that the second node holds at a moment, looked at while it loads."""

    def __init__(self, side: SwarmSide) -> None:
        self.side = side
        self.peak = 0
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            self.peak = max(self.peak, self.side.anonymous_bytes(1))

    def stop(self) -> None:
        self._is_over.set()

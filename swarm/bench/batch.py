"""swarm-batch with little memory, beside one prompt alone and beside all the memory that it wants."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from swarm.bench.checkpoint import make_checkpoint
from swarm.bench.rounds import measure_rounds
from swarm.bench.shapes import Shape
from swarm.decoder.device import Cpu
from swarm.errors import RequestError
from swarm.node.compute.models import read_weights
from swarm.parts import whole
from swarm.sepweight.manifest import ITEM_BYTES

WORDS = 8  # of a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What to run. share: of the layers that the memory has room for, beside all else. rate: of the disk, bytes a second."""

    shape: Shape
    prompts: int = 64
    tokens: int = 12
    share: float = 0.25
    rate: float = 1e9
    rounds: int = 3


def run(plan: BatchPlan, folder: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Tokens a second, medians over rounds in turn."""
    say("making the checkpoint")
    weights = folder / "weights"
    make_checkpoint(plan.shape, weights)
    words = Tokenizer(WordLevel({f"{number}": number for number in range(plan.shape.vocabulary)}, unk_token="0"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    words.save(str(weights / "tokenizer.json"))
    little = ["--memory", f"{_find_memory(plan, weights)}"]

    def measure(number: int) -> dict[str, float]:
        one = _measure(plan, weights, folder, 1, little)
        many = _measure(plan, weights, folder, plan.prompts, little)
        many_kept = _measure(plan, weights, folder, plan.prompts, [])
        return {
            "one_tokens_per_second": one,
            "many_tokens_per_second": many,
            "many_kept_tokens_per_second": many_kept,
            "many_of_one": many / (plan.prompts * one),
            "many_of_kept": many / many_kept,
        }

    return measure_rounds(plan.rounds, measure, say)


def _find_memory(plan: BatchPlan, weights: Path) -> int:
    """Bytes for a share of the layers, for all else that the model needs, and for all prompts."""
    (local,) = read_weights([weights], None, Cpu(), None).values()
    layers = local.decoder.layers
    item = ITEM_BYTES[local.manifest.dtype]
    position = local.decoder.cache_bytes(item) * layers + 2 * local.decoder.hidden * item
    texts = plan.prompts * (WORDS + plan.tokens) * position
    spared = int((1 - plan.share) * layers) * local.memory.weight_costs.layer
    return local.memory.fixed(whole(layers)) - spared + texts


def _measure(plan: BatchPlan, weights: Path, folder: Path, prompts: int, options: Sequence[str]) -> float:
    """Tokens a second that the command says. Raises RequestError if it fails."""
    rng = random.Random(prompts)
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    lines = [" ".join(f"{rng.randrange(12, plan.shape.vocabulary)}" for _ in range(WORDS)) for _ in range(prompts)]
    source.write_text("".join(f"{json.dumps({'prompt': line})}\n" for line in lines))
    target.unlink(missing_ok=True)
    slow = [sys.executable, "-m", "swarm.bench.slow", f"{plan.rate:g}", "0", "batch"]
    command = [*slow, str(source), str(target), "--weights", str(weights), "--max-tokens", f"{plan.tokens}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"([\d.]+) tokens/s", done.stdout)
    if done.returncode or found is None:
        raise RequestError(f"swarm-batch failed: {done.stderr}")
    return float(found[1])

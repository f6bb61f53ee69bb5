"""accelerate with layers offloaded to disk, in a process of its own: `python -m swarm.bench.offload_rival …`.

Arguments: WEIGHTS FOLDER COUNT. Its last COUNT layers come from FOLDER each time; if those are all, so does everything else.
Reads one JSON command a line from stdin and answers with one line. What it reads is paid for from a bucket like ours, with a
tensor of credit.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from swarm.bench.rival import Child, load_model
from swarm.bench.throttle import Bucket


class OffloadRival(Child):
    """The child process, from the parent's side."""

    def __init__(self, weights: Path, folder: Path, count: int) -> None:
        super().__init__(
            "swarm.bench.offload_rival",
            [str(weights), str(folder), str(count)],
            "the extras dev and bench, for accelerate",
        )

    def measure(self, rate: float, new_tokens: int) -> dict[str, float]:
        """token_seconds, anonymous_bytes. rate: of the source, bytes a second."""
        return self.ask({"rate": rate, "new_tokens": new_tokens})


def serve(weights: Path, folder: Path, count: int) -> None:
    """Answer commands until stdin ends."""
    import torch

    from swarm.bench.swarm_side import anonymous_bytes

    accelerate: Any = importlib.import_module("accelerate")
    offload: Any = importlib.import_module("accelerate.utils.offload")
    bucket = Bucket()
    load = offload.load_offloaded_weight

    def load_slowly(file: Any, info: Any) -> Any:
        tensor = load(file, info)
        bucket.take(tensor.nbytes, tensor.nbytes)
        return tensor

    offload.load_offloaded_weight = load_slowly
    model = load_model(weights)
    layers = model.config.num_hidden_layers
    if count == layers:
        accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    else:
        places = {"transformer.word_embeddings": "cpu", "transformer.ln_f": "cpu", "lm_head": "cpu"}
        places |= {f"transformer.h.{number}": "disk" if number >= layers - count else "cpu" for number in range(layers)}
        model = accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder))
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        bucket.rate = command["rate"]
        ids = torch.randint(12, model.config.vocab_size, (1, 16))
        with torch.inference_mode():
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            started = time.perf_counter()
            for _ in range(command["new_tokens"]):
                token = out.logits[:, -1:].argmax(-1)
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            seconds = time.perf_counter() - started
        figures = {"token_seconds": seconds / command["new_tokens"], "anonymous_bytes": anonymous_bytes("self")}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

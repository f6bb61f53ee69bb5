"""transformers on the same weights, in a process of its own: `python -m swarm.bench.rival WEIGHTS`.

Reads one JSON command a line from stdin and answers with one line. Its greedy loop calls the model directly, which is
faster than `generate`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swarm.errors import RequestError


class Child:
    """A process that answers one line of JSON with another, from the parent's side."""

    def __init__(self, module: str, arguments: Sequence[str], needs: str) -> None:
        """needs: what must be installed for it."""
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        if self._output.readline().strip() != "ready":
            raise RequestError(f"the rival did not start; it needs {needs}")

    def ask(self, command: Mapping[str, float]) -> dict[str, float]:
        """What it measured."""
        self._input.write(json.dumps(command) + "\n")
        self._input.flush()
        return json.loads(self._output.readline())

    def close(self) -> None:
        self._input.close()
        self._process.wait(10)


class Rival(Child):
    """transformers in a child process."""

    def __init__(self, weights: Path) -> None:
        super().__init__("swarm.bench.rival", [str(weights)], "the dev extra, for transformers")

    def measure(self, batch: int, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
        """decode_tokens_per_second (of all rows together), prompt_tokens_per_second, first_token_seconds."""
        return self.ask({"batch": batch, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens})


def load_model(weights: Path) -> Any:
    """transformers' own model with the directory's weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from swarm.families import family_named
    from swarm.parts import whole
    from swarm.sepweight.manifest import file_keys
    from swarm.sepweight.store import Store

    store = Store(weights)
    manifest = store.manifest
    family = family_named(manifest.family, weights)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # its first random numbers are drawn there
        model: Any = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**manifest.config), dtype=getattr(torch, manifest.dtype)
        ).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key in file_keys(whole(manifest.layers)):
            for tensor in manifest.files[key].tensors:
                for name in family.checkpoint_names(key, tensor):
                    if name in parameters:
                        parameters[name].copy_(store.read(key, tensor))
    return model


def serve(weights: Path) -> None:
    """Answer commands until stdin ends."""
    import torch

    model = load_model(weights)
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        ids = torch.randint(
            12, model.config.vocab_size, (command["batch"], command["prompt_tokens"]), device=model.device
        )
        with torch.inference_mode():
            started = time.perf_counter()
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            int(token[0, 0])
            first = time.perf_counter() - started
            started = time.perf_counter()
            for _ in range(command["new_tokens"]):
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
                int(token[0, 0])
            seconds = time.perf_counter() - started
        figures = {
            "decode_tokens_per_second": command["batch"] * command["new_tokens"] / seconds,
            "prompt_tokens_per_second": command["batch"] * command["prompt_tokens"] / first,
            "first_token_seconds": first,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

"""What is played on a device that is not there: every Falcon layout, and what members of the LLaMA family add."""

from __future__ import annotations

from tests.checkpoints import VARIANTS

MEMBERS = (
    "llama, biases",
    "mistral",
    "qwen3, yarn, biases",
    "phi3, longrope",
    "granite",
    "smollm3, windows",
    "gemma2",
    "gemma3",
)
LAYOUTS = (*VARIANTS, *MEMBERS)
STREAMED = ("40b", "rw", "llama, biases", "gemma2")  # of each kind of layer one, where layers come from disk

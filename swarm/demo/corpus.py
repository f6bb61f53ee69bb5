"""The questions and answers that the demo model knows, read from corpus.toml.

Knows nothing of tokenizers, models or training.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer with the wordings that ask for it; `unseen` is never trained on."""

    question: str
    also: tuple[str, ...]
    unseen: str
    answer: str

    @property
    def trained_questions(self) -> tuple[str, ...]:
        return (self.question, *self.also)


def read_corpus() -> list[Entry]:
    """All entries, in the order of the file."""
    text = resources.files("swarm.demo").joinpath("corpus.toml").read_text("utf-8")
    return [
        Entry(entry["question"], tuple(entry["also"]), entry["unseen"], entry["answer"])
        for entry in tomllib.loads(text)["entry"]
    ]


def render_turn(question: str) -> str:
    """A question as the demo model's chat template writes it; the answer follows after one space."""
    return f"User: {question}\nAssistant:"


# The same form for tokenizer_config.json. An answer ends with the end-of-text token; the next turn starts on a new line.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}User: {{ message.content }}\nAssistant:"
    "{% elif message.role == 'assistant' %} {{ message.content }}<|endoftext|>\n{% endif %}"
    "{% endfor %}"
)
END_OF_TEXT = "<|endoftext|>"

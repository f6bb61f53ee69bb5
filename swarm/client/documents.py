"""Documents of a model (tokenizer, template), fetched by digest once and then read from a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from tokenizers import Tokenizer

from swarm.client.prompts import PromptForm, choose_form
from swarm.client.swarm import SwarmClient
from swarm.errors import WeightsError
from swarm.files import write_whole
from swarm.messages.files import ModelCard


class Documents:
    """A model's documents by name."""

    def __init__(self, swarm: SwarmClient, card: ModelCard, cache: Path) -> None:
        self._swarm = swarm
        self._card = card
        self._cache = cache

    def read(self, name: str) -> bytes:
        """A document's bytes; empty if the model has none of that name."""
        entry = self._card.documents.get(name)
        if entry is None:
            return b""
        path = self._cache / entry.digest
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != entry.digest:
            data = self._swarm.fetch(self._card, name)
            with contextlib.suppress(OSError):  # no room, or nothing may be written: fetched again the next time
                write_whole(path, data)
        return data

    def tokenizer(self) -> Tokenizer:
        """Raises WeightsError if the model came without one."""
        data = self.read("tokenizer.json")
        if not data:
            raise WeightsError(
                f"{self._card.name} has no tokenizer.json; copy it into the checkpoint and convert again"
            )
        try:
            return Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises a bare Exception
            raise WeightsError(f"tokenizer.json of {self._card.name} cannot be read: {error}") from None

    def prompt_form(self, tokenizer: Tokenizer) -> PromptForm | None:
        return choose_form(tokenizer, self.read("tokenizer_config.json"), self.read("chat_template.jinja"))

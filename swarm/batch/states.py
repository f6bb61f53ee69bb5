"""A file of hidden states with which another machine goes on: a safetensors file that says what of it is whose."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from swarm.batch.lines import BadLine, Request
from swarm.batch.rows import Rows
from swarm.batch.texts import Text, count_predicting
from swarm.errors import RequestError
from swarm.messages.sampling import Sampling
from swarm.sepweight.tensorfile import HEADER_LIMIT, bytes_of

SUFFIX = ".safetensors"
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


class GivenText(msgspec.Struct, frozen=True):
    """A text that is scored."""

    line: int
    place: int
    ids: list[int]
    prompt: int


class States(msgspec.Struct, frozen=True, kw_only=True):
    """What the hidden states are of. layer: that comes next. texts: in the order of their hidden states."""

    model: str
    layer: int
    requests: list[Request]
    bad: list[BadLine]
    texts: list[GivenText]

    @property
    def lines(self) -> list[Request | BadLine]:
        """In their order."""
        return sorted([*self.requests, *self.bad], key=lambda line: line.number)

    def find_texts(self) -> Mapping[int, list[Text]]:
        """By line."""
        found: dict[int, list[Text]] = {}
        for one in self.texts:
            text = Text(one.line, one.place, one.ids, one.prompt, len(one.ids) - one.prompt, Sampling(), is_given=True)
            found.setdefault(one.line, []).append(text)
        return found


def describe_states(model: str, layer: int, lines: Sequence[Request | BadLine], texts: Sequence[Text]) -> States:
    """What is to be written beside the hidden states of some texts."""
    return States(
        model=model,
        layer=layer,
        requests=[line for line in lines if isinstance(line, Request)],
        bad=[line for line in lines if isinstance(line, BadLine)],
        texts=[GivenText(text.line, text.place, text.ids, text.prompt) for text in texts],
    )


def write_states(path: Path, states: States, rows: Rows, pieces: int) -> None:
    """All of it or nothing. Raises RequestError."""
    first = rows.read(0)
    width, tokens = first.shape[1], count_predicting(states.texts)
    size = tokens * width * first.element_size()
    entry = {"dtype": _DTYPES[first.dtype], "shape": [tokens, width], "data_offsets": [0, size]}
    said = msgspec.json.encode(states).decode()
    header = json.dumps({"__metadata__": {"swarm-batch": said}, "hidden": entry}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > HEADER_LIMIT:
        raise RequestError(f"{len(states.texts)} texts are too many for one file of hidden states; split the input")
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for piece in range(pieces):
                file.write(bytes_of(rows.read(piece).contiguous()))
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RequestError(
            f"{path} cannot be written: {error.strerror}; the same command goes on where this ended"
        ) from None


class StatesFile:
    """Such a file, open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises RequestError for anything else."""
        try:
            self._file = safe_open(path, framework="pt")
            said = (self._file.metadata() or {}).get("swarm-batch", "")
            self.states = msgspec.json.decode(said, type=States)
            self._hidden = self._file.get_slice("hidden")
            shape = self._hidden.get_shape()
        except (OSError, SafetensorError, msgspec.DecodeError, RecursionError) as error:
            raise RequestError(f"{path} is no file of hidden states that swarm-batch --part wrote: {error}") from None
        tokens = count_predicting(self.states.texts)
        if (
            len(shape) != 2
            or shape[0] != tokens
            or not all(0 < text.prompt < len(text.ids) for text in self.states.texts)
        ):
            raise RequestError(f"{path} has hidden states of shape {shape}, and {tokens} tokens")
        self.width: int = shape[1]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows of it."""
        return self._hidden[start:stop]

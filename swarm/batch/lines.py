"""What a line of the input asks for, and what is wrong with one that cannot be done. Pure, but for reading the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from swarm.client.prompts import Message
from swarm.errors import RequestError

MOST_LINE = 4 << 20  # bytes; what is longer is one bad line
MOST_LINES = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """A line that can be done. number: from 1.

    prompt or messages: what is asked, the other one empty. continuations: of a prompt, to be scored; none: it is answered.
    custom_id: of a line in OpenAI's batch form, which is answered in that form; "" else.
    """

    number: int
    prompt: str = ""
    messages: Sequence[Message] = ()
    continuations: Sequence[str] = ()
    max_tokens: int | None = None
    custom_id: str = ""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be done, and why."""

    number: int
    message: str
    custom_id: str = ""


def read_lines(path: Path) -> list[Request | BadLine]:
    """Every line of a file but the empty ones. Raises RequestError for a file that cannot be read or has none."""
    try:
        with path.open("rb") as file:
            found = [parse_line(number, line) for number, line in _lines_of(file) if line.strip()]
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    if not found:
        raise RequestError(f'{path} is empty; write lines like {{"prompt": "Once upon a time"}}')
    return found


def _lines_of(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long as much as tells that it is."""
    for number in range(1, MOST_LINES + 2):
        line = file.readline(MOST_LINE + 1)
        if not line:
            return
        if number > MOST_LINES:
            raise RequestError(f"more than {MOST_LINES:,} lines; split the file")
        rest = line
        while len(rest) > MOST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MOST_LINE + 1)
        yield number, line


def parse_line(number: int, line: bytes) -> Request | BadLine:
    """What a line asks for."""
    if len(line) > MOST_LINE:
        return BadLine(number, f"longer than {MOST_LINE >> 20} MiB")
    try:
        said: object = json.loads(line)
    except (ValueError, RecursionError):
        return BadLine(number, "no JSON")
    if not isinstance(said, dict):
        return BadLine(number, "no JSON object")
    fields = cast("Mapping[str, Any]", said)
    custom_id, body = "", fields
    if "custom_id" in fields:
        custom_id, body = str(fields["custom_id"])[:512], fields.get("body")
        if not custom_id or not isinstance(body, dict):
            return BadLine(number, "custom_id goes with a body: an object", custom_id)
        body = cast("Mapping[str, Any]", body)
    try:
        return _read(number, body, custom_id)
    except RequestError as error:
        return BadLine(number, str(error), custom_id)


def _read(number: int, body: Mapping[str, Any], custom_id: str) -> Request:
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise RequestError(f"max_tokens {most!r} is no number from 1 on")
    if "messages" in body:
        if "prompt" in body:
            raise RequestError("prompt or messages, not both")
        return Request(number, messages=_read_messages(body["messages"]), max_tokens=most, custom_id=custom_id)
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise RequestError("neither prompt, a text, nor messages")
    continuations = body.get("continuations", [])
    is_list = isinstance(continuations, list)
    if not is_list or not all(isinstance(one, str) and one for one in cast("list[object]", continuations)):
        raise RequestError("continuations are a list of texts")
    return Request(number, prompt, (), tuple(cast("list[str]", continuations)), most, custom_id)


def _read_messages(said: object) -> Sequence[Message]:
    if not isinstance(said, list) or not said:
        raise RequestError("messages are a list of objects with role and content")
    messages: list[Message] = []
    for one in cast("list[object]", said):
        fields = cast("Mapping[str, Any]", one) if isinstance(one, dict) else {}
        role, content = fields.get("role"), fields.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise RequestError("a message has a role (system, user, assistant) and a content, a text")
        messages.append(Message(role, content))
    return messages

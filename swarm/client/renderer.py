"""Renders chat templates in a process of its own, with limits: a template comes with a model, and may do anything but end.

`python -m swarm.client.renderer` is that process. It reads a request a line and answers with a line.
"""

from __future__ import annotations

import json
import resource
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from typing import IO, Any

from swarm.errors import WeightsError

SECONDS = 5.0
MEMORY = 1 << 30  # bytes of addresses
TEXT_LIMIT = 16 << 20  # characters


class Renderer:
    """Keeps one such process from the first rendering on."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """seconds: for one rendering."""
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """What a template makes of variables that JSON can tell. Raises WeightsError saying what is wrong with it."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        answer = self._ask(self._process, json.dumps({"template": template, "variables": variables}))
        if answer is None:
            _stop(self._process)
            raise WeightsError(
                f"the model's chat template takes more than {self._seconds:g} s or {MEMORY >> 20} MiB; use --raw"
            )
        if "text" not in answer:
            raise WeightsError(f"the model's chat template fails: {answer.get('error')}; use --raw")
        return str(answer["text"])

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "swarm.client.renderer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        weakref.finalize(self, _stop, process)
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: str) -> dict[str, Any] | None:
        """None: it has not answered in time, or has died of the attempt."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request.encode() + b"\n")
            process.stdin.flush()
        except OSError:
            return None
        line = _read_line(process.stdout, time.monotonic() + self._seconds)
        return None if line is None else json.loads(line)


def _read_line(stream: IO[bytes], deadline: float) -> bytes | None:
    """Up to a line's end, without waiting past the deadline."""
    line = bytearray()
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        piece = stream.read1(1 << 16) if ready else b""  # type: ignore[attr-defined]
        if not piece:
            return None
        line += piece
    return bytes(line)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _serve() -> None:
    from swarm.client.template import render

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the chat's to handle
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            text = render(request["template"], request["variables"])
            answer = {"text": text} if len(text) <= TEXT_LIMIT else {"error": f"it writes {len(text):,} characters"}
        except Exception as error:  # a template can raise anything that Python can
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()

"""What a batch has done so far, in a file beside its output: one that is interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.errors import RequestError


class Partial:
    """Appends what comes; the first line says what it is of."""

    def __init__(self, path: Path, of: Mapping[str, object]) -> None:
        """of: input, model, settings. Raises RequestError for a file that is of something else, or cannot be used."""
        self._path = path
        self.answers: dict[str, list[int]] = {}  # by text
        self.scores: dict[str, list[float]] = {}
        self.finished: dict[str, str] = {}
        self.layers = -1  # that all given texts are through, if their hidden states are on disk
        digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
        lines = self._read()
        if lines and lines[0].get("of") != digest:
            raise RequestError(
                f"{path} is of another input, model or settings; give those again to go on with it, or remove it"
            )
        for line in lines[1:]:
            self._take(line)
        self.was_begun = len(lines) > 1
        self._append({"of": digest} if not lines else {})

    def note(self, tokens: Mapping[str, int], scores: Mapping[str, list[float]], finished: Mapping[str, str]) -> None:
        """A step is done, by text. Raises RequestError if it cannot be kept."""
        self._append({"tokens": tokens, "scores": scores, "finished": finished})

    def note_layer(self, layers: int) -> None:
        """All given texts are through so many layers. Raises RequestError if it cannot be kept."""
        self._append({"layers": layers})

    def remove(self) -> None:
        """All of it is in the output."""
        self._path.unlink(missing_ok=True)

    def _take(self, line: Mapping[str, Any]) -> None:
        for key, token in line.get("tokens", {}).items():
            self.answers.setdefault(key, []).append(token)
        self.scores |= line.get("scores", {})
        self.finished |= line.get("finished", {})
        self.layers = line.get("layers", self.layers)

    def _read(self) -> list[Mapping[str, Any]]:
        """Every whole line; what was being written when it ended counts for nothing."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RequestError(f"{self._path} cannot be read: {error.strerror}") from None
        whole, _, rest = data.rpartition(b"\n")
        try:
            if rest:
                self._path.write_bytes(whole + b"\n" if whole else b"")
            return [json.loads(line) for line in whole.split(b"\n") if line]
        except (OSError, ValueError) as error:
            raise RequestError(f"{self._path} cannot be gone on with: {error}; remove it") from None

    def _append(self, line: Mapping[str, object]) -> None:
        if not line:
            return
        try:
            with self._path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise RequestError(
                f"{self._path} cannot be written: {error.strerror}; the same command goes on where this ended"
            ) from None

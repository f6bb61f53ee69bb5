"""What a node of this name served last, kept in a file, so that it can take that up again after a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from swarm.errors import RequestError
from swarm.files import write_whole
from swarm.models import ModelKey
from swarm.parts import Part, parse_part


def read_served_before(path: Path, layers: Mapping[ModelKey, int]) -> dict[ModelKey, Part]:
    """What was served of models of so many layers; nothing if the file is missing, damaged or about other models."""
    try:
        specs: dict[str, str] = json.loads(path.read_text("utf-8"))
        return {
            model: parse_part(str(specs[name]), count)
            for model, count in layers.items()
            if (name := " ".join(model)) in specs
        }
    except (ValueError, OSError, TypeError, RequestError):
        return {}  # a wish that got lost


def note_served(path: Path, model: ModelKey, part: Part) -> None:
    """Note what is served now, beside what is served of other models. Raises OSError where nothing can be written."""
    try:
        known: dict[str, str] = dict(json.loads(path.read_text("utf-8")))
    except (ValueError, OSError, TypeError):
        known = {}
    write_whole(path, json.dumps({**known, " ".join(model): str(part)}).encode())

"""Where a sepweight directory keeps its packed layers, and whether it can. Imports no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from swarm.sizes import format_size

FOLDER = "packed"  # in a sepweight directory


def why_unpackable(directory: Path, size: int) -> str | None:
    """Why layers of a directory cannot be packed that take so many bytes, or None."""
    folder = directory / FOLDER
    place = folder if folder.is_dir() else directory
    if not os.access(place, os.W_OK):
        return f"{place} cannot be written"
    try:
        there = sum(path.stat().st_size for path in folder.iterdir()) if place == folder else 0
        free = shutil.disk_usage(place).free
    except OSError as error:
        return f"{place} cannot be used: {error.strerror}"
    return (
        None
        if there + free >= size
        else f"{place} has room for {format_size(free)}, not for {format_size(size - there)}"
    )

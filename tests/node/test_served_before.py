"""What a node served last is kept between runs, and a damaged file is as good as none."""

from __future__ import annotations

from pathlib import Path

from swarm.models import ModelKey
from swarm.node.shell.served_before import note_served, read_served_before
from swarm.parts import parse_part

A, B = ModelKey("a", "int4"), ModelKey("a", "bfloat16")
LAYERS = {A: 12, B: 8}


def test_parts_are_kept_by_model(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "node.json"
    assert read_served_before(path, LAYERS) == {}
    note_served(path, A, parse_part("b 0-4", 12))
    note_served(path, B, parse_part("2-8 e", 8))
    note_served(path, A, parse_part("b 0-6", 12))
    assert read_served_before(path, LAYERS) == {A: parse_part("b 0-6", 12), B: parse_part("2-8 e", 8)}
    assert read_served_before(path, {B: 8}) == {B: parse_part("2-8 e", 8)}


def test_what_cannot_be_understood_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    for text in ("", "[1]", '{"a int4": "40-50"}', '{"a"'):
        path.write_text(text, "utf-8")
        assert read_served_before(path, LAYERS) == {}

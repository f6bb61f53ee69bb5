"""The README's three programs, as they stand, but for the address and the model's name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.serving import MODEL, Gateway

ROOT = Path(__file__).parent.parent.parent
ANSWER = "A hop is one element of a route"


def snippets() -> list[str]:
    """Indented blocks of the section that ask something."""
    text = (ROOT / "README.md").read_text("utf-8").split("## Use it from your programs", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks if "What is a hop?" in block]


@pytest.mark.parametrize("number", range(3))
def test_a_program_runs_as_it_stands(gateway: Gateway, number: int) -> None:
    code = snippets()[number].replace("http://127.0.0.1:8080", gateway.url).replace('"mine"', f'"{MODEL}"')
    command = ["bash", "-c", code] if code.startswith("curl") else [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = "".join(re.findall(r'"content": "([^"]*)"', done.stdout)) if code.startswith("curl") else done.stdout
    assert ANSWER[:12] in said

"""What the README shows runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def library_block() -> str:
    text = (ROOT / "README.md").read_text("utf-8").split("## As a library", 1)[1].split("\n## ", 1)[0]
    return re.sub(r"^    ", "", text, flags=re.MULTILINE)


def test_the_library_block_runs_as_typed() -> None:
    code = library_block()
    code += """
import torch
whole = init_part(weights, "f")
assert torch.equal(logits, whole(ids))
assert torch.equal(logits, whole(torch.tensor(ids)))
assert torch.equal(logits, whole(torch.tensor([ids])))
assert torch.equal(logits, rest(first(ids)[None]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

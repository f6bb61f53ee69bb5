"""llm, the command-line tool, with an entry for an OpenAI-compatible model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import CLIENTS, NAME, Served

ENTRIES = """
- {model_id: swarm, model_name: %(name)s, api_base: "%(url)s/v1"}
- {model_id: swarm-text, model_name: %(name)s, api_base: "%(url)s/v1", completion: true}
- {model_id: swarm-at-once, model_name: %(name)s, api_base: "%(url)s/v1", can_stream: false}
"""

pytestmark = pytest.mark.clients


def run(home: Path, served: Served, *arguments: str) -> str:
    (home / "extra-openai-models.yaml").write_text(ENTRIES % {"name": NAME, "url": served.gateway.url})
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    done = subprocess.run(
        [str(CLIENTS / "llm"), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("model", ["swarm", "swarm-at-once", "swarm-text"])
def test_it_answers_and_goes_on(served: Served, tmp_path: Path, model: str) -> None:
    options = ["-o", "temperature", "0", "-o", "max_tokens", "12"]
    first = run(tmp_path, served, "prompt", "-m", model, "What is a hop?", *options)
    assert first.strip()
    second = run(tmp_path, served, "prompt", "-m", model, "-c", "And a route?", *options)
    assert second.strip()
    logged = json.loads(run(tmp_path, served, "logs", "list", "--json", "-n", "0"))
    assert {entry["response"] for entry in logged} == {first.rstrip("\n"), second.rstrip("\n")}
    counted = None if model == "swarm-text" else 12  # of such a model it asks for no count
    assert [entry["output_tokens"] for entry in logged] == [counted, counted]

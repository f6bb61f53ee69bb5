"""schemathesis: requests of all kinds, right and wrong, made from the gateway's own description."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import CLIENTS, NAME, Served

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
MOST_TOKENS = 6

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


def describe(served: Served) -> dict[str, Any]:
    """With requests for the model that there is, whose answers are short: all others would be refused alike."""
    told = served.gateway.ask("/openapi.json")[2]
    for form in told["components"]["schemas"].values():
        fields = form.get("properties", {})
        if "model" in fields:
            fields["model"] = {"const": NAME}
        for name in {"max_tokens", "max_output_tokens"} & fields.keys():
            fields[name] = {"type": "integer", "minimum": 1, "maximum": MOST_TOKENS}
            form["required"] = [*{*form.get("required", []), name}]
    return told


def test_no_request_is_a_fault_of_the_gateways(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "description.json"
    file.write_text(json.dumps(describe(served)))
    options = ["--url", served.gateway.url, "--checks", CHECKS, "--max-examples", "20", "--seed", "1"]
    command = [str(CLIENTS / "schemathesis"), "run", str(file), *options, "--phases", "coverage,fuzzing", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-3000:]
    assert "18 selected / 18 total" in done.stdout
    told = served.gateway.ask("/swarm")[2]
    assert told["answers"] == []
    assert all(node["refused"] == 0 for node in told["nodes"])
    body = {"model": NAME, "messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
    assert served.gateway.ask("/v1/chat/completions", body)[0] == 200

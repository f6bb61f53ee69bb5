"""What is counted."""

from __future__ import annotations

import re

import pytest

from tests.demo_model import QUESTION
from tests.gateway.serving import MODEL, Gateway

CHAT = "/v1/chat/completions"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
SAMPLE = re.compile(r"^(\S+?)(\{.*\})? (\S+)$")


def scrape(gateway: Gateway) -> dict[str, float]:
    """By name; summed over labels other than the reason of an end, the status of a refusal, and the state of a claim."""
    connection = gateway.connect()
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    found: dict[str, float] = {}
    for line in answer.read().decode().splitlines():
        match = SAMPLE.match(line)
        if match and not line.startswith("#"):
            kept = re.findall(r'(?:finished_reason|status|state)="([^"]*)"', match[2] or "")
            name = " ".join([match[1], *kept])
            found[name] = found.get(name, 0.0) + float(match[3])
    return found


def test_answers_are_counted_and_timed(gateway: Gateway) -> None:
    before = scrape(gateway)
    assert gateway.ask(CHAT, ASKED)[0] == 200
    assert gateway.ask(CHAT, {**ASKED, "max_tokens": 2})[0] == 200
    assert gateway.ask(CHAT, {**ASKED, "model": "another"})[0] == 404
    after = scrape(gateway)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("vllm:generation_tokens_total") == 20
    assert grown("vllm:prompt_tokens_total") == grown("vllm:prefix_cache_queries_total") == 20
    assert grown("vllm:request_success_total stop") == grown("vllm:request_success_total length") == 1
    assert grown("vllm:time_to_first_token_seconds_count") == 2
    assert grown("vllm:inter_token_latency_seconds_count") <= 18
    assert grown("swarm_refused_total 404") == 1
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert not [name for name in after if name.endswith("_created")]


def test_the_swarm_is_told_as_its_nodes_tell_it(gateway: Gateway) -> None:
    told = scrape(gateway)
    assert told["swarm_nodes"] == told["swarm_claims serving"] == 1
    assert told["swarm_missing_cells"] == 0
    assert told["swarm_node_memory_free_bytes"] > 0
    assert 0 <= told["vllm:kv_cache_usage_perc"] < 1


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "text/plain", ""])
def test_the_form_is_the_one_that_is_asked_for(gateway: Gateway, accept: str) -> None:
    connection = gateway.connect()
    connection.request("GET", "/metrics", headers={"accept": accept})
    answer = connection.getresponse()
    assert ("openmetrics" in answer.getheader("content-type", "")) == ("openmetrics" in accept)
    assert b"vllm:num_requests_running" in answer.read()

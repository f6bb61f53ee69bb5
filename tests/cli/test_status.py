"""swarm-status as a user meets it: nodes, coverage, memory, the plan."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from swarm.cli.status import list_nodes
from swarm.client.table import describe_plans
from swarm.messages.members import Capacity, Claim
from tests.beats import make_beat
from tests.demo_model import LOOPBACK, WEIGHTS
from tests.processes import Node, environment, run_command


def test_status_shows_nodes_and_coverage(home: Path, reach: list[str]) -> None:
    described = json.loads(run_command("status", home, ["--json", *reach]).stdout)
    assert described["models"] == [
        {
            "model": described["models"][0]["model"],
            "name": "swarm-demo",
            "layers": 6,
            "missing": "",
            "is_complete": True,
        }
    ]
    assert described["nodes"][0]["claims"][0]["state"] == "serving"
    drawn = run_command("status", home, reach)
    assert "11111111" in drawn.stdout
    assert "'b" in drawn.stdout, "the part is not taken for markup"
    assert "nothing" in drawn.stdout


def test_status_cuts_no_word_off_on_a_narrow_terminal(home: Path, reach: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swarm.cli", "status", "--plan", *reach],
        env=environment(home) | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "…" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert re.search(r"  swarm-demo bfloat16 'b 0-\d[^']*' serving,", done.stdout), "no word of it is broken"


def test_lines_break_between_words_alone() -> None:
    name, part = "a-model-with-a-rather-long-name-of-sixty-four-letters-in-all-0123", "b 0-4 8-12 16-20 24-28 e"
    claim = Claim(model="1" * 32, name=name, part=part, state="serving", layers=30, variant="int4:64+head")
    lines = list_nodes([make_beat("a", claim, sessions=1)], 80)
    assert max(map(len, lines)) <= 80
    for words in (name, f"'{part}'", "int4:64+head", "serving", "1 session"):
        assert any(words in line for line in lines), words


def test_status_tells_what_a_node_may_use(tmp_path: Path) -> None:
    node = Node(tmp_path, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18980", "--no-mdns", "--memory", "14MB"])
    try:
        reached = [*LOOPBACK, "--no-mdns", "--peer", node.wait_ready()[4]]
        (seen,) = json.loads(run_command("status", tmp_path, ["--json", *reached]).stdout)["nodes"]
        assert seen["memory_budget"] < 14e6 < seen["memory_total"]
        assert "of 9" in run_command("status", tmp_path, reached).stdout
    finally:
        node.stop()


def test_status_shows_the_plan_before_anyone_moves(home: Path, reach: list[str]) -> None:
    (plan,) = json.loads(run_command("status", home, ["--json", "--plan", *reach]).stdout)["plans"]
    assert plan["name"] == "swarm-demo"
    assert plan["moves"] == []
    assert plan["before"]["tokens_per_second_of_one"] > 0
    assert plan["before"] == plan["after"]
    drawn = run_command("status", home, ["--plan", *reach])
    assert "nobody moves" in drawn.stdout


def test_the_plan_says_who_reads_layers_from_disk_and_what_that_costs() -> None:
    costs = {"layers": 12, "layer_bytes": 12, "begin_bytes": 0, "end_bytes": 5}
    beats = [
        make_beat(
            name,
            Claim(
                model="1" * 32, name="m", part=part, state="serving", layers=12, layer_seconds=0.01, streamed=streamed
            ),
            capacities=[
                Capacity(model="1" * 32, name="m", budget_bytes=48, weight_bytes=10, source_rate=rate, **costs)
            ],
        )
        for name, part, streamed, rate in (("a", "b 0-2 4-6 8-10", 5, 250), ("b", "2-4 6-8 10-12 e", 6, 2500))
    ]
    (plan,) = describe_plans(beats)
    assert [one["reason"] for one in plan["reading"]] == [  # pyright: ignore[reportGeneralTypeIssues]
        "reads 5 of 6 layers from disk in 200 ms: a token takes as long",
        "reads 6 of 6 layers from disk in 24 ms, hidden behind the rest of the chain",
    ]

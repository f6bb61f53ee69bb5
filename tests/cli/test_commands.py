"""The commands as a user meets them: help, errors, exit codes, the conversation on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import psutil
import pytest

from swarm.cli.command import EXIT_NO_SECRET
from swarm.keys import make_secret
from tests.checkpoints import save_checkpoint
from tests.processes import DEMO, Node, chat_json, environment, peak_memory, run_command
from tests.swarms import wait_until

WEIGHTS = str(DEMO)
LOOPBACK = ["--host", "127.0.0.1"]
QUESTION, ANSWER = (
    "What is a route?",
    "A route is the chain of nodes and parts that covers the whole model exactly once.",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def node(home: Path) -> Iterator[Node]:
    started = Node(home, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18950", "--no-mdns", "--part", "f"])
    started.wait_ready()
    yield started
    started.stop()


@pytest.fixture
def reach(node: Node) -> list[str]:
    return [*LOOPBACK, "--no-mdns", "--peer", node.wait_ready()[4]]


@pytest.mark.parametrize("name", ["node", "chat", "weights", "status", "bench"])
def test_help_imports_no_torch(name: str, tmp_path: Path) -> None:
    code = f"import sys; sys.argv=['swarm-{name}','--help']; import swarm.cli.{name} as m\n"
    code += "try: m.main()\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'zmq' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: swarm-" in done.stdout


def test_a_prompt_prints_the_answer_and_nothing_else(home: Path, reach: list[str]) -> None:
    done = run_command("chat", home, [*reach, QUESTION])
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr
    piped = run_command("chat", home, reach, text=QUESTION)
    assert piped.stdout == ANSWER + "\n"


def test_the_chat_imports_no_torch(home: Path, reach: list[str]) -> None:
    code = f"import sys; sys.argv={['x', *reach, QUESTION]!r}; import swarm.cli.chat as m\n"
    code += "try: m.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ANSWER + "\n"


def test_json_lines_tell_the_route_each_token_and_the_whole(home: Path, reach: list[str]) -> None:
    done = run_command("chat", home, ["--jsonl", *reach, QUESTION])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["route"] == [{"node": lines[-1]["route"][0]["node"], "part": "b 0-6 e", "variant": "bfloat16"}]
    assert [line["token_id"] for line in lines[1:-1]] == lines[-1]["token_ids"]
    assert lines[-1]["text"] == ANSWER
    assert lines[-1]["finish_reason"] == "stop"
    assert lines[-1]["crossed_kinds"] is False
    assert set(lines[-1]["timings"]) == {"first_token_seconds", "tokens_per_second", "longest_gap_seconds"}


def test_a_stop_string_ends_the_answer_before_it(home: Path, reach: list[str]) -> None:
    answer = chat_json(home, [*reach, "--stop", "nodes and", QUESTION])
    assert answer["text"] == "A route is the chain of"
    assert answer["finish_reason"] == "stop"


def test_a_seed_gives_the_same_answer_again(home: Path, reach: list[str]) -> None:
    asked = [*reach, "--temperature", "3", "--seed", "11", "--raw", "--max-tokens", "20", "--ignore-eos", "Swarm"]
    first, second = chat_json(home, asked), chat_json(home, asked)
    assert first["token_ids"] == second["token_ids"]
    assert len(first["token_ids"]) == 20
    other = chat_json(home, [*asked, "--seed", "12"])
    assert other["token_ids"] != first["token_ids"]


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(home: Path, reach: list[str]) -> None:
    done = run_command("chat", home, [*reach, "--raw", "swarm " * 2000])
    assert done.returncode == 2
    assert "the context of swarm-demo is 512" in done.stderr


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
    flat = re.sub(r"[│┃\s]", "", done.stdout)
    assert "swarm-demo" in flat


def test_status_tells_what_a_node_may_use(tmp_path: Path) -> None:
    node = Node(tmp_path, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18980", "--no-mdns", "--memory", "14MB"])
    try:
        reached = [*LOOPBACK, "--no-mdns", "--peer", node.wait_ready()[4]]
        (seen,) = json.loads(run_command("status", tmp_path, ["--json", *reached]).stdout)["nodes"]
        assert seen["memory_budget"] < 14e6 < seen["memory_total"]
        assert "of 9" in run_command("status", tmp_path, reached).stdout
    finally:
        node.stop()


def test_a_prompt_that_is_no_utf8_is_said_to_be_none(home: Path, reach: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swarm.cli", "chat", *reach],
        env=environment(home),
        capture_output=True,
        input=b"caf\xe9",
        check=False,
    )
    assert done.returncode == 2
    assert b"the prompt is no UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_status_shows_the_plan_before_anyone_moves(home: Path, reach: list[str]) -> None:
    (plan,) = json.loads(run_command("status", home, ["--json", "--plan", *reach]).stdout)["plans"]
    assert plan["name"] == "swarm-demo"
    assert plan["moves"] == []
    assert plan["before"]["tokens_per_second_of_one"] > 0
    assert plan["before"] == plan["after"]
    drawn = run_command("status", home, ["--plan", *reach])
    assert "nobody moves" in drawn.stdout


def test_a_conversation_on_a_terminal(home: Path, reach: list[str], tmp_path: Path) -> None:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "swarm.cli", "chat", *reach],
        env={**environment(home), "TERM": "dumb"},  # type: ignore[arg-type]
        encoding="utf-8",
        timeout=20,
        dimensions=(40, 200),
    )
    child.expect(">>> ")
    child.sendline(QUESTION)
    child.expect_exact(ANSWER)
    child.sendline("What is a hop?")
    child.expect_exact("A hop is one element of a route")
    child.sendline("/show")
    child.expect("swarm-demo")
    child.expect(r"route +\w+ \[b 0-6 e\]")
    child.sendline("/set temperature 0.5")
    child.sendline("/set temperature warm")
    child.expect("temperature: 0 to 100, got warm")
    child.sendline("/set max_tokens 0")
    child.expect("max_tokens: 1 or more, a whole number, got 0")
    child.sendline("/set colour red")
    child.expect("colour cannot be set; what can: temperature, ")
    child.sendline("/nonsense")
    child.expect("is no command")
    child.sendline(f"/save {tmp_path}/talk.json")
    child.sendline("/clear")
    child.sendline("/regenerate")
    child.expect("there is no answer yet")
    child.sendline(f"/load {WEIGHTS}/sepweight.json")
    child.expect("it holds no conversation")
    child.sendline(f"/load {tmp_path}/talk.json")
    child.expect("4 messages")
    child.sendline("/regenerate")
    child.expect_exact("A hop is one element of a route")
    child.sendline(f'"""What is""" a {QUESTION.split()[-1]}')
    child.expect_exact(ANSWER)
    child.sendline('"""What is a')
    child.sendline('route?"""')
    child.expect_exact("A ")
    child.sendline("/bye")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "banana"])
def test_a_temperature_that_cannot_be_is_refused_at_once_in_words(value: str, home: Path, reach: list[str]) -> None:
    started = time.monotonic()
    done = run_command("chat", home, [*reach, "--temperature", value, QUESTION])
    assert done.returncode == 2
    assert f"temperature: 0 to 100, got {value}" in done.stderr
    assert time.monotonic() - started < 5


def test_the_smallest_temperature_answers(home: Path, reach: list[str]) -> None:
    done = run_command("chat", home, [*reach, "--temperature", "1e-300", QUESTION])
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr


def test_an_answer_that_the_context_cuts_short_says_so(home: Path, reach: list[str]) -> None:
    done = run_command("chat", home, [*reach, "--raw", "--ignore-eos", "--max-tokens", "4000", QUESTION])
    assert "the context of 512 tokens is full" in done.stderr


def interrupt(node: Node, home: Path, reach: list[str]) -> pexpect.spawn[str] | None:
    """A chat whose answer was interrupted, the node held still meanwhile; None if the answer was over before that."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "swarm.cli", "chat", *reach, "--ignore-eos", "--max-tokens", "400"],
        env={**environment(home), "TERM": "dumb"},  # type: ignore[arg-type]
        encoding="utf-8",
        timeout=20,
        dimensions=(40, 200),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
    )
    child.expect(">>> ")
    child.sendline(QUESTION)
    child.expect_exact("A route is")
    node.process.send_signal(signal.SIGSTOP)
    child.sendintr()
    is_stopped = child.expect_exact(["(stopped)", "is full)"]) == 0
    node.process.send_signal(signal.SIGCONT)
    if is_stopped:
        return child
    child.close(force=True)
    return None


def test_ctrl_c_stops_the_answer_and_frees_its_cache(node: Node, home: Path, reach: list[str]) -> None:
    child = next(filter(None, (interrupt(node, home, reach) for _ in range(5))), None)
    assert child is not None

    def count_sessions() -> int:
        return json.loads(run_command("status", home, ["--json", *reach]).stdout)["nodes"][0]["sessions"]

    wait_until(lambda: count_sessions() == 0, 10, "no session is left")
    child.sendeof()
    child.expect(pexpect.EOF)


def test_a_peer_that_answered_once_is_remembered(home: Path, reach: list[str]) -> None:
    assert run_command("chat", home, [*reach, QUESTION]).returncode == 0
    again = run_command("chat", home, [*LOOPBACK, "--no-mdns", QUESTION])
    assert (again.returncode, again.stdout) == (0, ANSWER + "\n"), again.stderr


def test_no_peers_and_no_secret_are_said_plainly(node: Node, tmp_path: Path) -> None:
    """Side by side: each waits some seconds for a swarm."""
    loner, other, nobody = (tmp_path / name for name in ("loner", "other", "nobody"))
    for home in (loner, other):
        make_secret(home / "config" / "swarm" / "secret")
    cases: list[tuple[Path, list[str], str]] = [
        (loner, [], "no peers seen"),
        (loner, ["--no-mdns"], "--no-mdns needs --peer HOST:PORT"),
        (loner, ["--no-mdns", "--peer", "foo"], '"foo" is no HOST:PORT'),
        (loner, ["--no-mdns", "--peer", "127.0.0.1:9"], "TCP 127.0.0.1:9 times out or is refused"),
        (nobody, ["--no-mdns"], "there is no swarm secret"),
        (other, ["--no-mdns", "--peer", node.wait_ready()[4]], "wrong swarm secret, or not a swarm"),
    ]
    with ThreadPoolExecutor(len(cases)) as pool:
        asked = [pool.submit(run_command, "chat", home, [*LOOPBACK, *peers, "hello"]) for home, peers, _ in cases]
    for (_, _, message), done in zip(cases, asked, strict=True):
        assert done.result().returncode == 2
        assert message in done.result().stderr


def test_a_node_without_a_secret_that_sees_a_swarm_says_how_to_join(tmp_path: Path) -> None:
    first = Node(tmp_path / "a", ["--weights", WEIGHTS, *LOOPBACK, "--port", "18970", "--part", "f"])
    try:
        first.wait_ready()
        refused = run_command("node", tmp_path / "b", ["--weights", WEIGHTS, *LOOPBACK, "--port", "18980"])
        assert refused.returncode == EXIT_NO_SECRET
        assert "ssh OTHER-MACHINE" in refused.stderr
        assert "--new-swarm" in refused.stderr
        own = Node(tmp_path / "b", ["--weights", WEIGHTS, *LOOPBACK, "--port", "18980", "--new-swarm", "--part", "f"])
        own.wait_ready()
        own.stop()
    finally:
        first.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "/nowhere"], 1, "is not a sepweight directory"),
        (["--weights", WEIGHTS, "--part", "40-60"], 2, 'part "40-60" exceeds this model\'s 6 layers'),
        (["--weights", WEIGHTS, "--part", "b-4"], 2, '"b-4" is not a layer range'),
        (["--weights", WEIGHTS, "--memory", "1MB"], 2, "is too little for one layer of swarm-demo"),
        (["--weights", WEIGHTS, "--memory", "6MB", "--part", "f"], 2, 'part "b 0-6 e" of swarm-demo needs'),
        (["--weights", WEIGHTS, "--memory", "much"], 2, "write for example 6GB"),
        (["--weights", WEIGHTS, "--device", "gpu"], 2, "write auto, cpu or cuda:0"),
    ],
)
def test_a_node_says_what_is_wrong_with_its_options(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = run_command("node", tmp_path, [*arguments, *LOOPBACK, "--no-mdns"])
    assert done.returncode == code
    assert message in done.stderr


def test_a_signal_ends_a_node_within_five_seconds(tmp_path: Path) -> None:
    started = Node(tmp_path, ["--weights", WEIGHTS, *LOOPBACK, "--port", "18990", "--no-mdns", "--part", "f", "--json"])
    wait_until(lambda: bool(started.lines), 30, "the node is ready")
    assert json.loads(started.lines[0])["event"] == "ready"
    began = time.monotonic()
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(5) == 0
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_memory_stays_under_the_cap(tmp_path: Path) -> None:
    """RSS after loading and serving <= RSS before loading + --memory + 100 MB, seen from outside."""
    from swarm.bench.checkpoint import Shape, make_checkpoint

    make_checkpoint(Shape(layers=12, hidden=1024, heads=16, vocabulary=20000), tmp_path / "weights")
    options = ["--weights", str(tmp_path / "weights"), *LOOPBACK, "--port", "19010", "--no-mdns"]
    started = Node(tmp_path, [*options, "--memory", "300MB"])
    process = psutil.Process(started.process.pid)
    peak = 0

    def is_ready() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return any("ready" in line for line in started.lines)

    try:
        wait_until(is_ready, 60, "the node is ready")
        base = peak_memory("import torch")
        assert peak <= base + 300_000_000 + (100 << 20), f"{peak >> 20} MB"
        assert started.wait_ready()[2] != "b 0-12 e"
    finally:
        started.stop()


def test_weights_commands(tmp_path: Path) -> None:
    save_checkpoint("40b", tmp_path / "checkpoint")
    directory = str(tmp_path / "weights")
    assert run_command("weights", tmp_path, ["convert", str(tmp_path / "checkpoint"), directory]).returncode == 0
    info = json.loads(run_command("weights", tmp_path, ["info", directory, "--json"]).stdout)
    assert (info["layers"], info["is_complete"], info["name"]) == (4, True, "weights")
    assert run_command("weights", tmp_path, ["verify", directory]).returncode == 0
    path = tmp_path / "weights" / "mid.00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    faulty = run_command("weights", tmp_path, ["verify", directory])
    assert faulty.returncode == 1
    assert "mid.00001.safetensors: sha256" in faulty.stderr
    listed = run_command("weights", tmp_path, ["files", "b 0-2", "--layers", "4"]).stdout.split()
    assert listed == ["sepweight.json", "begin.safetensors", "mid.00000.safetensors", "mid.00001.safetensors"]
    refused = run_command("weights", tmp_path, ["convert", str(tmp_path), directory])
    assert refused.returncode == 1
    assert "config.json is missing" in refused.stderr


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swarm.demo", QUESTION],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr
    ids = [line.split("id=")[1].split()[0] for line in done.stderr.splitlines() if "ready" in line]
    assert len(set(ids)) == 3
    assert 'part="b 0-6 e"' not in done.stderr
    mine = os.getpid()
    left = [
        p
        for p in psutil.process_iter(["cmdline"])
        if "swarm-demo-" in " ".join(p.info["cmdline"] or []) and p.pid != mine
    ]
    assert left == []


def test_a_node_that_ends_while_its_threads_stand_in_torch_ends_well() -> None:
    """An interpreter that ends under such a thread aborts, and leaves a core file behind."""
    program = """
import sys, threading, time
import torch
from swarm.cli import node

def load():
    while True:
        torch.ones(1 << 18).to(torch.bfloat16).clone()

def run(command):
    for _ in range(3):
        threading.Thread(target=load, daemon=True).start()
    time.sleep(0.2)
    print("left")
    sys.exit(4)

node.run = run
node.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, "left\n", "")

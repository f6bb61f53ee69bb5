"""swarm-chat as a user meets it: one answer, errors, exit codes, the conversation on a terminal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

from swarm.keys import make_secret
from tests.demo_model import ANSWER, LOOPBACK, QUESTION, WEIGHTS
from tests.processes import Node, chat_json, environment, run_command
from tests.swarms import wait_until


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
    child.sendline("/set thinking maybe")
    child.expect("thinking: on or off, got maybe")
    child.sendline("/set thinking off")
    child.sendline("/set system Be brief.")
    child.sendline("/show")
    child.expect(r"system +Be brief\.\s+thinking +off")
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

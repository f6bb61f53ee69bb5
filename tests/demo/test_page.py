"""The demo with a page for the browser."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import environment

PORT = 18995


@pytest.mark.long
def test_the_demo_serves_a_page_until_it_is_told_to_end(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "swarm.demo", "--model", "toy", "--web", str(PORT)],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stderr is not None
    told = [demo.stderr.readline()]
    while not told[-1].startswith("open "):
        assert told[-1], told
        told.append(demo.stderr.readline())
    assert f"http://127.0.0.1:{PORT}" in told[-1]
    assert "<title>swarm</title>" in fetch("/")[1]
    deadline = time.monotonic() + 20
    while fetch("/health")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    demo.terminate()
    demo.wait(15)
    with pytest.raises(OSError):
        fetch("/health")


def fetch(path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("port", ["x", "-1"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    asked = [sys.executable, "-m", "swarm.demo", "--model", "toy", "--web", port, "hello"]
    done = subprocess.run(asked, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "WEB is a port" in done.stderr

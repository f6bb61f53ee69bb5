"""Real swarm-node and swarm-chat processes on loopback (or in a network namespace), with folders of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tests.forked import ForkedProcess

DEMO = Path(str(resources.files("swarm.demo").joinpath("model")))
PROGRAM = ("swarm.cli",)
ENTER = ["ip", "netns", "exec"]  # and the name of a network namespace
READY = re.compile(r'swarm-node ready id=(\w+) part="([^"]+)" model=(\S+)(?: streamed=\d+)? address=tcp://(\S+)')


def environment(home: Path) -> dict[str, str]:
    """The environment of a machine whose home is `home`."""
    kinds = ("CONFIG", "STATE", "CACHE")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SWARM_"))},
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in kinds},
    }


def peak_memory(code: str) -> int:
    """The most bytes of memory that a process held at a time that ran this Python code.

    Not getrusage: a child's figure there starts at what its parent held.
    """
    code += "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-2]) * 1024


class Node:
    """A swarm-node process; its output is collected as it comes."""

    def __init__(
        self,
        home: Path,
        arguments: Sequence[str],
        prefix: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
        *,
        is_forked: bool = True,
    ) -> None:
        """prefix: a command that runs the node somewhere else, such as `ip netns exec NAME`. program: another module.

        is_forked: whether a process may become the node that has made its imports already.
        """
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process: subprocess.Popen[str] | ForkedProcess
        if is_forked and program == PROGRAM and (not prefix or prefix[:-1] == ENTER):
            self.process = ForkedProcess(arguments, environment(home), prefix[-1] if prefix else None)
        else:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *program, "node", *arguments],
                env=environment(home),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._ready = threading.Event()
        for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=self._collect, args=(stream, lines), daemon=True).start()

    def _collect(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            if READY.match(line):
                self._ready.set()
        self._ready.set()

    @property
    def is_ready(self) -> bool:
        """Whether it has said so."""
        return any(READY.match(line) for line in self.lines)

    def wait_ready(self, seconds: float = 60) -> re.Match[str]:
        """The last ready line: id, part, model, address."""
        assert self._ready.wait(seconds), f"not ready after {seconds} s: {self.errors}"
        found = [match for line in self.lines if (match := READY.match(line))]
        assert found, f"ended without being ready: {self.errors}"
        return found[-1]

    def stop(self) -> int:
        """SIGTERM, and 5 seconds to leave."""
        self.process.terminate()
        return self.wait_left()

    def wait_left(self) -> int:
        """Until it has left, which it has been told to."""
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("swarm-node did not leave within 5 s of SIGTERM") from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def stop_all(nodes: Sequence[Node]) -> None:
    """SIGTERM to all of them at once."""
    for node in nodes:
        node.process.terminate()
    for node in nodes:
        node.wait_left()


def run_command(
    name: str,
    home: Path,
    arguments: Sequence[str],
    prefix: Sequence[str] = (),
    text: str | None = None,
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """A command of ours, run to its end."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "swarm.cli", name, *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        input=text,
        timeout=seconds,
        check=False,
    )


def chat_json(home: Path, arguments: Sequence[str], prefix: Sequence[str] = ()) -> dict[str, Any]:
    """The object that `swarm-chat --json` prints."""
    done = run_command("chat", home, ["--json", *arguments], prefix)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

"""`python -m swarm.demo [PROMPT]`: three nodes on 127.0.0.1 serve the demo model, and swarm-chat talks to it.

Each node may use too little memory to hold the model alone. They use a secret and folders of their own, so a swarm that
this machine belongs to is left alone, and they are gone when this ends, however it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import FrameType

HOST = "127.0.0.1"
NODES = 3
MEMORY = "8.4MB"  # the whole model, its KV and scratch need 9.8 MB
READY_SECONDS = 60.0
STOP_SECONDS = 6.0


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    with tempfile.TemporaryDirectory(prefix="swarm-demo-") as folder:
        nodes: list[subprocess.Popen[str]] = []
        try:
            return _run(Path(folder), nodes, arguments)
        except KeyboardInterrupt:
            return 130
        finally:
            _stop(nodes)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def _run(folder: Path, nodes: list[subprocess.Popen[str]], arguments: Sequence[str]) -> int:
    environment = {
        **os.environ,
        **{f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")},
    }
    weights = resources.files("swarm.demo").joinpath("model")
    port = _free_port()
    print(f"starting {NODES} nodes with {MEMORY} each ...", file=sys.stderr)
    for number in range(NODES):
        command = ["node", "--weights", str(weights), "--memory", MEMORY, "--device", "cpu", "--host", HOST]
        command += [
            "--port",
            str(port),
            "--peer",
            f"{HOST}:{port}",
            "--new-swarm",
            "--demo",
            "--name",
            f"demo-{number + 1}",
        ]
        with (folder / f"node-{number + 1}.log").open("w") as said:
            nodes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "swarm.cli", *command],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                    start_new_session=True,  # Ctrl-C in the chat stops the answer, not the nodes
                )
            )
    for number, node in enumerate(nodes):
        assert node.stdout is not None
        line = node.stdout.readline().strip()
        if not line:
            reason = (folder / f"node-{number + 1}.log").read_text("utf-8", "replace").strip()
            print(f"a node did not start:\n{reason}", file=sys.stderr)
            return 1
        print(line, file=sys.stderr)
    # The chat's process group is ours, so Ctrl-C reaches both: it is the chat's to handle.
    signal.signal(signal.SIGINT, lambda *_: None)
    chat = [sys.executable, "-m", "swarm.cli", "chat", "--host", HOST, "--peer", f"{HOST}:{port}", *arguments]
    return subprocess.run(chat, env=environment, check=False).returncode


def _free_port() -> int:
    """A port that was free a moment ago; a node that finds it taken moves up by itself."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return min(int(probe.getsockname()[1]), 65000)


def _stop(nodes: Sequence[subprocess.Popen[str]]) -> None:
    for node in nodes:
        node.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for node in nodes:
        try:
            node.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

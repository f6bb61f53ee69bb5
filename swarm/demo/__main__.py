"""`python -m swarm.demo [--model toy] [--quantize FORM] [--memory tiny] [--web PORT] [PROMPT]`: three nodes on 127.0.0.1
serve a model, and swarm-chat talks to it; with `--web` swarm-gateway does, and its page is opened.

Each node may use too little memory to hold the model alone; with `--memory tiny` so little that all three cannot keep it
together and read layers from disk, as swarm-status then says. They use a secret and folders of their own, so a swarm that
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
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from swarm.cli.command import cache_dir
from swarm.demo.models import DemoModel, smollm2, toy
from swarm.errors import WeightsError

HOST = "127.0.0.1"
NODES = 3
READY_SECONDS = 60.0
STOP_SECONDS = 6.0
WEB_PORT = "8080"


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    with tempfile.TemporaryDirectory(prefix="swarm-demo-") as folder:
        nodes: list[subprocess.Popen[str]] = []
        try:
            said, chat = _read(arguments)
            return _run(Path(folder), nodes, said, chat)
        except WeightsError as error:
            print(f"{error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            _stop(nodes)


@dataclass(slots=True)
class Said:
    """What the demo was told; "" where nothing was.

    The model, the form of its matrices, whether memory is short, on which port its page is to be (1: the usual one).
    """

    model: str = ""
    quantize: str = ""
    memory: str = ""
    web: str = ""


def _read(arguments: Sequence[str]) -> tuple[Said, Sequence[str]]:
    """What the demo is told, and what the chat is."""
    said = Said()
    rest = list(arguments)
    while len(rest) > 1 and rest[0] in ("--model", "--quantize", "--memory", "--web"):
        setattr(said, rest[0].removeprefix("--"), rest[1])
        rest = rest[2:]
    if said.memory not in ("", "tiny"):
        raise WeightsError(f'there is no demo with "{said.memory}" memory; known: tiny')
    if said.web and not said.web.isdecimal():
        raise WeightsError(f'WEB is a port, or 1 for the usual one, and not "{said.web}"')
    return said, rest


def _choose(asked: str) -> DemoModel:
    """The model asked for. Where none is asked for and the real one cannot be had: the toy."""
    match asked:
        case "toy":
            return toy()
        case "smollm2":
            return smollm2(cache_dir())
        case "":
            try:
                return smollm2(cache_dir())
            except WeightsError as error:
                print(f"{error}\nso the demo runs its toy model, which knows sixty questions", file=sys.stderr)
                return toy()
        case _:
            raise WeightsError(f'there is no demo model "{asked}"; known: smollm2, toy')


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def _run(folder: Path, nodes: list[subprocess.Popen[str]], said: Said, arguments: Sequence[str]) -> int:
    model, form = _choose(said.model), said.quantize
    environment = {
        **os.environ,
        **{f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")},
    }
    port = _free_port()
    if said.memory and not model.tiny:
        raise WeightsError("the toy is too small to be read from disk; leave out --model toy")
    memory = model.tiny if said.memory else model.smaller if form else model.memory
    print(f"starting {NODES} nodes with {memory} each ...", file=sys.stderr)
    for number in range(NODES):
        command = ["node", "--weights", str(model.weights), "--memory", memory, "--device", "cpu", "--host", HOST]
        command += ["--quantize", form] if form else []
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
        with (folder / f"node-{number + 1}.log").open("w") as log:
            nodes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "swarm.cli", *command],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=log,
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

    def command_of(name: str, host: str = "--host") -> list[str]:
        return [sys.executable, "-m", "swarm.cli", name, host, HOST, "--peer", f"{HOST}:{port}"]

    if said.memory:
        subprocess.run(command_of("status"), env=environment, stdout=sys.stderr, check=False)
    if said.web:
        page = WEB_PORT if said.web == "1" else said.web
        return _serve_page([*command_of("gateway", "--browse"), "--port", page], environment)
    return subprocess.run([*command_of("chat"), *arguments], env=environment, check=False).returncode


def _serve_page(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The gateway, until Ctrl-C; a browser where there is a screen."""
    gateway = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert gateway.stdout is not None
        line = gateway.stdout.readline().strip()
        if line:
            address = line.rpartition("address=")[2]
            print(f"{line}\nopen {address} in a browser; Ctrl-C ends it", file=sys.stderr)
            if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & environment.keys():
                webbrowser.open(address)
        return max(0, gateway.wait())
    finally:
        gateway.terminate()
        gateway.wait(STOP_SECONDS)


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

"""A home that cannot be written, a name that is a path, a host that nobody knows: said once, and the work goes on."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.cli.peers import known_peers
from swarm.keys import make_secret
from tests.demo_model import ANSWER, LOOPBACK, QUESTION, WEIGHTS
from tests.processes import Node, run_command

OPTIONS = ["--weights", WEIGHTS, *LOOPBACK, "--port", "18990", "--no-mdns", "--device", "cpu"]
MOUNTABLE = os.geteuid() == 0 and os.path.exists("/bin/mount")


@pytest.fixture(params=["read-only", "full", "damaged"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """One with the swarm's secret, and no room or leave to write anything else; or with nonsense in every file."""
    make_secret(tmp_path / "config" / "swarm" / "secret")
    if request.param == "damaged":
        for name in ("names", "claims", "memory", "cores"):
            (tmp_path / "state" / "swarm" / name).mkdir(parents=True)
        node = Node(tmp_path, [*OPTIONS, "--name", "kitchen", "--part", "f"])
        node.wait_ready()
        node.stop()
        for file in (tmp_path / "state").rglob("*"):
            if file.is_file():
                file.write_bytes(b"\xff\x00{[" * 20)
        yield tmp_path
        return
    if not MOUNTABLE:
        pytest.skip("needs root and mount: a full or read-only file system is mounted over the state")
    for kind in ("state", "cache"):
        (tmp_path / kind).mkdir()
    size = "size=4096" if request.param == "full" else "ro,size=1m"
    mounted = []
    try:
        for kind in ("state", "cache"):
            command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(tmp_path / kind)]
            if subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("tmpfs cannot be mounted here")
            mounted.append(tmp_path / kind)
            if request.param == "full":
                (tmp_path / kind / "filler").write_bytes(b"x" * 4096)
        yield tmp_path
    finally:
        for folder in mounted:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_node_chat_and_status_run_without_state_and_say_so_once(home: Path, request: pytest.FixtureRequest) -> None:
    node = Node(home, [*OPTIONS, "--part", "f", "--name", "kitchen"])
    try:
        address = node.wait_ready()[4]
        reach = [*LOOPBACK, "--no-mdns", "--peer", address]
        answer = run_command("chat", home, [*reach, QUESTION])
        status = run_command("status", home, [*reach, "--json"])
    finally:
        node.stop()
    assert (answer.returncode, answer.stdout) == (0, ANSWER + "\n"), answer.stderr
    assert status.returncode == 0, status.stderr
    for said in ("\n".join(node.errors), answer.stderr, status.stderr):
        assert "Traceback" not in said
        expected = 0 if "damaged" in request.node.name else 1
        assert said.count("nothing can be kept in") == expected, said


def test_without_a_secret_and_a_place_for_one_the_user_hears_where(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("no directory")
    done = run_command("node", tmp_path, [*OPTIONS, "--new-swarm", "--part", "f"])
    assert done.returncode == 2
    assert "the swarm's secret cannot be" in done.stderr
    assert "--secret-file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_a_name_that_will_not_do_is_refused(name: str, tmp_path: Path) -> None:
    done = run_command("node", tmp_path, [*OPTIONS, "--name", name, "--part", "f"])
    assert done.returncode == 2
    assert "will not do: 1 to 64 printable characters" in done.stderr


def test_a_name_that_looks_like_a_path_is_only_a_name(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    node = Node(home, [*OPTIONS, "--name", "../../x y", "--part", "b"])
    try:
        assert node.wait_ready()[2] == "b"  # which needs hardly any memory, and no more than it takes
    finally:
        node.stop()
    written = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_relative_to(home)]
    assert written == []
    claims = list((home / "state" / "swarm" / "claims").iterdir())
    assert len(claims) == 1


def test_peers_whose_host_has_no_address_are_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look_up(host: str, port: int, **_: object) -> list[object]:
        if host == "kitchen":
            raise socket.gaierror(-2, "Name or service not known")
        return [None]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert known_peers("swarm-chat", ["kitchen:7700", "attic:7700"]) == ["attic:7700"]
    said = capsys.readouterr().err
    assert said.startswith('swarm-chat: --peer kitchen:7700: no address is known for "kitchen"')
    assert "firewall" not in said

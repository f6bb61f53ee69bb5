"""The secret, what derives from it, and names."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from swarm.errors import RequestError
from swarm.keys import NameLock, derive_keys, make_secret, read_secret, take_name


def test_racing_starters_make_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "config" / "secret"
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(make_secret(path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_keys_follow_from_the_secret_alone() -> None:
    assert derive_keys(b"a" * 32) == derive_keys(b"a" * 32)
    assert derive_keys(b"a" * 32) != derive_keys(b"b" * 32)
    assert derive_keys(b"a" * 32).tag != derive_keys(b"b" * 32).tag


@pytest.mark.parametrize("text", ["", "swarm1-", "swarm1-zz", "0" * 64, "swarm1-" + "0" * 62])
def test_a_file_that_holds_no_secret_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(RequestError, match=r"secret file .*secret must hold"):
        read_secret(tmp_path / "secret")


def test_a_missing_secret_is_none(tmp_path: Path) -> None:
    assert read_secret(tmp_path / "secret") is None


def test_a_name_is_held_by_one_and_keeps_its_key(tmp_path: Path) -> None:
    first = NameLock(tmp_path, "kitchen")
    with pytest.raises(RequestError, match='"kitchen" runs on this machine already'):
        NameLock(tmp_path, "kitchen")
    second = take_name(tmp_path, None, "kitchen")
    assert second.name == "kitchen-2"
    assert second.identity != first.identity
    identity = first.identity
    os.close(first._descriptor)
    assert NameLock(tmp_path, "kitchen").identity == identity


def test_each_run_of_a_name_is_newer_than_the_last_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incarnations: list[int] = []
    for seconds in (2e9, 1e9, 1.5e9):
        monkeypatch.setattr(time, "time_ns", lambda seconds=seconds: int(seconds * 1e9))
        lock = NameLock(tmp_path, "kitchen")
        incarnations.append(lock.incarnation)
        os.close(lock._descriptor)
    assert incarnations == sorted(set(incarnations))

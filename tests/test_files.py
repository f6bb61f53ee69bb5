"""Files that a process keeps between runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from swarm.files import write_whole


def test_writers_of_one_file_leave_the_whole_of_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "document"
    contents = [bytes([number]) * 100_000 for number in range(16)]
    threads = [threading.Thread(target=write_whole, args=(path, data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [entry.name for entry in path.parent.iterdir()] == ["document"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "document"
    path.mkdir()  # not a file that could be replaced
    with pytest.raises(OSError):
        write_whole(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["document"]

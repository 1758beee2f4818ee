from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from pytinykv.lifecycle.temporary import TemporaryDirectory, hold_lock

PREFIX = "pytinykv-test-"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_it_is_there_until_it_is_closed() -> None:
    made = TemporaryDirectory.make(PREFIX)
    (made.path / "file").touch()
    made.close()
    made.close()
    assert not made.path.exists()


def test_the_next_one_deletes_what_a_killed_process_left(tmp_path: Path) -> None:
    held = TemporaryDirectory.make(PREFIX)
    abandoned = tmp_path / f"{PREFIX}old"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    for path in (held.path, abandoned):
        os.utime(path, (0, 0))
    TemporaryDirectory.make(PREFIX).close()
    assert held.path.exists()
    assert not abandoned.exists()
    held.close()


def test_a_forked_child_lets_it_go_and_leaves_it(tmp_path: Path) -> None:
    made = TemporaryDirectory.make(PREFIX)
    pid = os.fork()
    if pid == 0:
        made.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert made.path.exists()
    made.close()


def test_a_lock_that_is_held_names_its_holder(tmp_path: Path) -> None:
    descriptor = hold_lock(tmp_path)
    with pytest.raises(BlockingIOError, match=str(os.getpid())):
        hold_lock(tmp_path)
    os.close(descriptor)

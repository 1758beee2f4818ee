from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from pytinykv.lifecycle.temporary import LOCK, TemporaryDirectory, hold_lock, remove_abandoned

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


def test_the_next_one_deletes_what_a_killed_process_left_however_young_it_is(tmp_path: Path) -> None:
    held = TemporaryDirectory.make(PREFIX)
    abandoned = leave_behind()
    (abandoned / "file").touch()
    (abandoned / "store").mkdir()
    (abandoned / "store" / "wal").touch()
    TemporaryDirectory.make(PREFIX).close()
    assert list(tmp_path.iterdir()) == [held.path]
    held.close()


def test_what_can_not_be_deleted_yet_is_found_by_the_one_after(monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = leave_behind()
    (abandoned / "store").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_args, **_settings: None)  # as with a child that still writes there
        TemporaryDirectory.make(PREFIX).close()
    assert (abandoned / "lock").exists()
    TemporaryDirectory.make(PREFIX).close()
    assert not abandoned.exists()


def test_a_directory_that_a_user_has_named_like_ours_stays(tmp_path: Path) -> None:
    chosen, empty = (tmp_path / f"{PREFIX}{name}" for name in ("chosen", "empty"))
    for path in (chosen, empty):
        path.mkdir()
    os.close(hold_lock(chosen))
    TemporaryDirectory.make(PREFIX).close()
    assert chosen.exists()
    assert empty.exists()


def leave_behind() -> Path:
    """Return a temporary directory whose process ended without deleting it."""
    made = TemporaryDirectory.make(PREFIX)
    assert made._lock is not None
    os.close(made._lock)
    return made.path


def test_one_that_another_process_is_just_making_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has made the lock file and is about to lock it; if that failed, it could not start."""
    young = tmp_path / f"{PREFIX}young"
    young.mkdir()
    (young / LOCK).touch()
    locked: list[int] = []
    monkeypatch.setattr("fcntl.flock", lambda descriptor, _how: locked.append(descriptor))
    remove_abandoned(PREFIX)
    assert not locked
    assert young.exists()


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

"""Who may use a data directory: one process, of the right kind, cluster and store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytinykv.storage import (
    CorruptionError,
    DataDirectoryError,
    DataDirectoryInUseError,
    DataDirectoryMismatchError,
    DataKind,
    EngineClosedError,
    RocksEngine,
    write_atomically,
)
from pytinykv.storage.data_dir import DataDirectory, Identity


def test_a_new_directory_belongs_to_no_cluster_until_it_is_claimed(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path / "a" / "b", kind=DataKind.STORE) as directory:
        assert directory.identity == Identity(1, DataKind.STORE, cluster_id=0, store_id=0)
        assert directory.snapshots_path.is_dir()
        directory.claim(cluster_id=7)
        directory.claim(cluster_id=7, store_id=3)
        directory.claim(cluster_id=7)
        RocksEngine.open(directory.engine_path).close()
    with DataDirectory.open(tmp_path / "a" / "b", kind=DataKind.STORE) as directory:
        assert directory.identity == Identity(1, DataKind.STORE, cluster_id=7, store_id=3)


def test_golden_identity_file(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path, kind=DataKind.STORE) as directory:
        directory.claim(cluster_id=7041, store_id=3)
    assert json.loads((tmp_path / "identity.json").read_text()) == {
        "format_version": 1,
        "kind": "store",
        "cluster_id": 7041,
        "store_id": 3,
    }


def test_of_another_cluster_or_store(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path, kind=DataKind.STORE) as directory:
        directory.claim(cluster_id=7, store_id=3)
        with pytest.raises(DataDirectoryMismatchError, match=r"belongs to cluster 7, not to 8: use"):
            directory.claim(cluster_id=8, store_id=3)
        with pytest.raises(DataDirectoryMismatchError, match=r"belongs to store 3, not to 4: use"):
            directory.claim(cluster_id=7, store_id=4)
        assert directory.identity == Identity(1, DataKind.STORE, cluster_id=7, store_id=3)


def test_of_another_kind(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path, kind=DataKind.SCHEDULER).close()
    with pytest.raises(DataDirectoryMismatchError, match="data of a scheduler, not of a store"):
        DataDirectory.open(tmp_path, kind=DataKind.STORE)


def test_of_a_newer_format(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text('{"format_version": 2, "something": "new"}')
    with pytest.raises(DataDirectoryMismatchError, match="format version 2, this pytinykv knows up to 1"):
        DataDirectory.open(tmp_path, kind=DataKind.STORE)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"format_version": 0, "kind": "store"}', '{"format_version": 1}', "\x00" * 40]
)
def test_damaged_identity_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(CorruptionError, match=r"identity\.json") as caught:
        DataDirectory.open(tmp_path, kind=DataKind.STORE)
    assert caught.value.file == tmp_path / "identity.json"


def test_identity_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CorruptionError, match=r"identity\.json"):
        DataDirectory.open(tmp_path, kind=DataKind.STORE)


def test_a_directory_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataDirectoryMismatchError, match=r"thesis\.tex"):
        DataDirectory.open(tmp_path, kind=DataKind.STORE)
    assert not (tmp_path / "identity.json").exists()


def test_a_creation_that_was_cut_short_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    (tmp_path / "identity.json.tmp").write_text('{"form')
    DataDirectory.open(tmp_path, kind=DataKind.STORE).close()


def test_in_use_by_this_process(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path, kind=DataKind.STORE):
        with pytest.raises(DataDirectoryInUseError, match=f"this process already \\(pid {os.getpid()}\\)") as caught:
            DataDirectory.open(tmp_path, kind=DataKind.STORE)
        assert caught.value.holder_pid == os.getpid()
    DataDirectory.open(tmp_path, kind=DataKind.STORE).close()


HOLDER = """
import sys
from pytinykv.storage import DataDirectory, DataKind
directory = DataDirectory.open(sys.argv[1], kind=DataKind.STORE)
print("held", flush=True)
sys.stdin.read()
"""


def test_in_use_by_another_process_and_free_once_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataDirectoryInUseError, match=f"the process with pid {holder.pid}") as caught:
            DataDirectory.open(tmp_path, kind=DataKind.STORE)
        assert caught.value.holder_pid == holder.pid
        holder.kill()
        holder.wait(timeout=30)
    DataDirectory.open(tmp_path, kind=DataKind.STORE).close()


def test_a_failed_open_lets_the_lock_go(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path, kind=DataKind.SCHEDULER).close()
    for _ in range(3):
        with pytest.raises(DataDirectoryMismatchError):
            DataDirectory.open(tmp_path, kind=DataKind.STORE)
    DataDirectory.open(tmp_path, kind=DataKind.SCHEDULER).close()


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirectoryError, match="not a directory"):
            DataDirectory.open(path, kind=DataKind.STORE)


def test_closed_directory_can_be_closed_again_but_not_claimed(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path, kind=DataKind.STORE)
    directory.close()
    directory.close()
    with pytest.raises(EngineClosedError):
        directory.claim(cluster_id=1)


def test_write_atomically_replaces_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]

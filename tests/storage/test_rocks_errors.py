"""What the disk can do to the engine, and what the engine says then."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.small_disks import fill, mount_small_disk
from tests.storage import full_disk
from tests.storage.engines import SMALL, put

from pytinykv.storage import (
    ColumnFamily,
    CorruptionError,
    DataDirectoryError,
    DataDirectoryInUseError,
    DataKind,
    DiskFullError,
    EngineError,
    RocksEngine,
    rocks_forks,
)
from pytinykv.storage.data_dir import DataDirectory
from pytinykv.storage.engine import Engine

RAW, RAFT = ColumnFamily.RAW, ColumnFamily.RAFT


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 2 MiB, or as the test asks."""
    with mount_small_disk(tmp_path / "small", getattr(request, "param", "2m")) as path:
        yield path


def fill_up(engine: Engine, rng: Random) -> int:
    """Write and sync until the engine refuses; return how many batches were acknowledged."""
    for number in range(10_000):
        try:
            put(engine, RAW, (b"k%06d" % number, rng.randbytes(5000)))
            engine.sync()
        except DiskFullError:
            return number
    pytest.fail("the disk never filled up")


def test_full_disk_stops_the_engine_and_loses_nothing(small_disk: Path) -> None:
    """Once full, the engine stays failed; with space again, a restart finds all that was acknowledged."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    engine = RocksEngine.open(small_disk / "db", SMALL)
    rng = Random(1)
    acknowledged = fill_up(engine, rng)
    assert acknowledged > 10
    first = engine.failure
    assert isinstance(first, DiskFullError)
    assert str(small_disk) in str(first)
    ballast.unlink()
    for attempt in (lambda: put(engine, RAW, (b"x", b"y")), engine.sync, lambda: put(engine, RAFT, (b"x", b"y"))):
        with pytest.raises(DiskFullError) as caught:
            attempt()
        assert caught.value is first, "the first error, though there is space again"
    assert engine.get(RAW, b"k000000") is not None, "reading goes on"
    engine.close()

    again = RocksEngine.open(small_disk / "db", SMALL)
    rng = Random(1)
    for number in range(acknowledged):
        assert again.get(RAW, b"k%06d" % number) == rng.randbytes(5000)
    again.close()


@pytest.mark.parametrize("small_disk", ["24m"], indirect=True)
def test_a_write_behind_a_flush_that_fails_is_refused(small_disk: Path) -> None:
    """It does not wait for the flush, however many memtables there are: RocksDB would try again until there is space."""
    written = subprocess.run(
        [sys.executable, "-m", "tests.storage.full_disk", str(small_disk)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert written.returncode == 0, written.stderr
    (small_disk / "ballast").unlink()
    engine = RocksEngine.open(small_disk / "db", full_disk.CONFIG)
    for number in range(int(written.stdout)):
        assert engine.get(RAW, b"row%06d" % number) == b"y"
    assert sum(1 for _ in engine.scan(full_disk.SLOW, b"", None)) == full_disk.ROWS
    assert engine.get(RAW, b"900000999") == b"x" * 10
    put(engine, RAW, (b"goes", b"on"))
    engine.sync()
    engine.close()


def test_opening_on_a_full_disk(small_disk: Path) -> None:
    RocksEngine.open(small_disk / "db", SMALL).close()
    fill(small_disk / "ballast")
    with pytest.raises(DiskFullError):
        RocksEngine.open(small_disk / "db", SMALL)
    with pytest.raises(DiskFullError):
        DataDirectory.open(small_disk / "data", kind=DataKind.STORE)


def test_export_on_a_full_disk_leaves_no_file_and_a_working_engine(small_disk: Path, tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    rng = Random(2)
    put(engine, RAW, *((b"%06d" % number, rng.randbytes(1000)) for number in range(5000)))
    with pytest.raises(DiskFullError):
        engine.export_sst(RAW, engine, b"", None, small_disk / "x.sst")
    assert not (small_disk / "x.sst").exists()
    put(engine, RAW, (b"goes", b"on"))
    engine.sync()
    engine.close()


class FailingDisk:
    """Stands in for the calls into RocksDB that reach the disk."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls = 0

    def __call__(self, *_arguments: object) -> None:
        self.calls += 1
        raise Exception(self.text)  # noqa: TRY002 - that is what rocksdict raises


def test_failed_sync_poisons_the_engine(tmp_path: Path) -> None:
    """After one failed fsync no later success may be believed (fsyncgate): RocksDB isn't even asked again."""
    engine = RocksEngine.open(tmp_path / "db")
    disk = FailingDisk("IO error: While fdatasync: /x/000004.log: Input/output error")
    real, engine._database_flush_wal = engine._database_flush_wal, disk
    put(engine, RAW, (b"a", b"1"))
    with pytest.raises(EngineError, match="Input/output error") as first:
        engine.sync()
    engine._database_flush_wal = real
    for attempt in (engine.sync, lambda: put(engine, RAW, (b"b", b"2")), lambda: engine.checkpoint(tmp_path / "c")):
        with pytest.raises(EngineError) as later:
            attempt()
        assert later.value is first.value
    assert disk.calls == 1
    assert engine.get(RAW, b"b") is None
    engine.close()


def test_failed_write_poisons_the_engine(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    engine._database_write = FailingDisk("IO error: No space left on device")
    with pytest.raises(DiskFullError) as first:
        put(engine, RAW, (b"a", b"1"))
    with pytest.raises(DiskFullError) as later:
        engine.sync()
    assert later.value is first.value
    engine.close()


def test_failure_in_the_sync_thread_reaches_the_writer(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    engine._database_flush_wal = FailingDisk("IO error: gone")
    caught: list[BaseException] = []

    def sync() -> None:
        try:
            engine.sync()
        except EngineError as error:
            caught.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    thread.join(timeout=30)
    with pytest.raises(EngineError) as later:
        put(engine, RAW, (b"a", b"1"))
    assert caught == [later.value]
    engine.close()


def test_two_engines_on_one_directory(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    with pytest.raises(DataDirectoryInUseError, match="in use"):
        RocksEngine.open(tmp_path / "db")
    engine.close()
    RocksEngine.open(tmp_path / "db").close()


def test_two_processes_on_one_directory(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    script = "import sys; from pytinykv.storage import RocksEngine; RocksEngine.open(sys.argv[1])"
    other = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "db")], capture_output=True, text=True, timeout=60, check=False
    )
    assert other.returncode != 0
    assert "DataDirectoryInUseError" in other.stderr
    engine.close()


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"")
    with pytest.raises(EngineError, match="db"):
        RocksEngine.open(tmp_path / "db")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user, so it needs root to become one")
def test_missing_rights(tmp_path: Path) -> None:
    """As root nothing is forbidden, so a child process without rights tries."""
    RocksEngine.open(tmp_path / "db").close()
    tmp_path.chmod(0o755)
    for parent in [tmp_path.parent, tmp_path.parent.parent]:
        parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            rocks_forks._threads.are_lost = False  # an opening that is refused needs none of them
            os.setuid(65534)
            RocksEngine.open(tmp_path / "db")
        except DataDirectoryError as error:
            status = 0 if "no permission" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_closing_writes_no_memtable(tmp_path: Path) -> None:
    """A stop has a deadline, and a flush knows none: what is in the log stays there, synced, for the next start."""
    engine = RocksEngine.open(tmp_path / "db")
    put(engine, RAW, *((b"%06d" % number, b"x" * 100) for number in range(1000)))
    engine.close()
    assert not list((tmp_path / "db").glob("*.sst"))
    engine = RocksEngine.open(tmp_path / "db")
    assert len(list(engine.scan(RAW, b"", None))) == 1000
    engine.close()


@pytest.mark.parametrize("lost", ["*.sst", "MANIFEST-*"])
def test_lost_files_are_named(tmp_path: Path, lost: str) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    put(engine, RAW, *((b"%06d" % number, b"x" * 100) for number in range(1000)))
    engine.close()
    RocksEngine.open(tmp_path / "db").close()  # moves what the log holds to an SST file
    file = next((tmp_path / "db").glob(lost))
    file.unlink()
    with pytest.raises(CorruptionError, match=file.name) as caught:
        RocksEngine.open(tmp_path / "db")
    assert caught.value.file == file


def test_garbage_in_current_and_manifest_is_named(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    put(engine, RAW, (b"a", b"b"))
    engine.close()
    for file in [*(tmp_path / "db").glob("MANIFEST-*"), tmp_path / "db" / "CURRENT"]:
        content = file.read_bytes()
        file.write_bytes(b"garbage" + content[7:])
        with pytest.raises(CorruptionError, match=file.name) as caught:
            RocksEngine.open(tmp_path / "db")
        assert caught.value.file == file
        file.write_bytes(content)
    engine = RocksEngine.open(tmp_path / "db")
    assert engine.get(RAW, b"a") == b"b"
    engine.close()

"""What a database does when its disk is full, fails, takes no writes any more, or is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.small_disks import fill, mount_small_disk, write_protected

import pytinykv
from pytinykv.client import DatabaseError, DatabaseFullError, DatabaseInUseError, UndeterminedError
from pytinykv.storage import EngineError, MemoryEngine, rocks_forks

NOBODY = 65534


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mount_small_disk(tmp_path / "small", "8m") as path:
        yield path


def put(db: pytinykv.Client, key: bytes, value: bytes) -> None:
    with db.transaction() as txn:
        txn.put(key, value)


def rows(db: pytinykv.Client) -> dict[bytes, bytes]:
    return dict(db.snapshot().scan())


# --- full ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_a_disk_that_fills_up_stops_writes_and_loses_nothing_acknowledged(small_disk: Path, durability: str) -> None:
    """The commit that meets it is in doubt, all later ones are refused, reads go on; with space again all is there."""
    (small_disk / "ballast").write_bytes(bytes(6 << 20))
    rng, acknowledged = Random(1), dict[bytes, bytes]()
    with pytinykv.open(small_disk / "db", durability=durability) as db:  # type: ignore[arg-type]  # one of the two

        def write_on() -> None:
            while True:
                key, value = b"k%06d" % len(acknowledged), rng.randbytes(5000)
                put(db, key, value)
                acknowledged[key] = value

        with pytest.raises(UndeterminedError, match="no space left on the device of"):
            write_on()
        assert len(acknowledged) > 10
        writes: list[Callable[[], object]] = [
            lambda: put(db, b"later", b"v"),
            lambda: db.raw.put(b"later", b"v"),
            lambda: db.run(lambda txn: txn.put(b"later", b"v")),
        ]
        (small_disk / "ballast").unlink()
        for write in writes:  # though there is space again: what reached the disk is not known
            with pytest.raises(DatabaseFullError, match=r"nothing was changed.*close it, and open it again"):
                write()
        assert rows(db) == acknowledged
    with pytinykv.open(small_disk / "db") as db:
        found = rows(db)
        assert acknowledged.items() <= found.items()
        assert len(found) <= len(acknowledged) + 1, "only what was in doubt may be there besides"
        put(db, b"goes", b"on")


def test_opening_on_a_full_disk_says_so_and_harms_nothing(small_disk: Path) -> None:
    with pytinykv.open(small_disk / "db") as db:
        put(db, b"k", b"v")
    fill(small_disk / "ballast")
    for name in ("db", "new"):
        with pytest.raises(DatabaseFullError, match="no space left on the device of"):
            pytinykv.open(small_disk / name)
    (small_disk / "ballast").unlink()
    with pytinykv.open(small_disk / "db") as db, pytinykv.open(small_disk / "new") as new:
        assert (rows(db), rows(new)) == ({b"k": b"v"}, {})


def test_a_full_disk_says_so_without_a_disk() -> None:
    with pytinykv.open(None) as db:
        engine = memory_of(db)
        put(db, b"k", b"v")
        engine.faults.capacity_bytes = 10
        with pytest.raises(UndeterminedError, match="holds 10 bytes"):
            put(db, b"k", b"x")
        with pytest.raises(DatabaseFullError):
            put(db, b"k", b"x")


def memory_of(db: pytinykv.Client) -> MemoryEngine:
    engine = db._core.database.engine  # type: ignore[attr-defined]  # an EmbeddedCore
    assert isinstance(engine, MemoryEngine)
    return engine


def test_a_failed_disk_takes_no_more_writes_and_loses_nothing_acknowledged() -> None:
    with pytinykv.open(None) as db:
        put(db, b"k", b"acknowledged")
        memory_of(db).faults.sync_error = EngineError("the disk is gone")
        with pytest.raises(UndeterminedError, match="the disk is gone"):
            put(db, b"k", b"in doubt")
        with pytest.raises(DatabaseError, match="nothing was changed"):
            put(db, b"k", b"refused")
        with pytest.raises(DatabaseError):
            db.raw.put(b"k", b"refused")
        assert db.snapshot().get(b"k") == b"acknowledged"  # what may be lost is not shown


# --- read-only ----------------------------------------------------------------------------------------------------


def test_a_file_system_that_is_mounted_read_only(small_disk: Path) -> None:
    with pytinykv.open(small_disk / "db") as db:
        put(db, b"k", b"v")
    with write_protected(small_disk):
        for name in ("db", "new"):
            with pytest.raises(DatabaseError, match="its file system is mounted read-only"):
                pytinykv.open(small_disk / name)
    with pytinykv.open(small_disk / "db") as db:
        assert rows(db) == {b"k": b"v"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user, so it needs root to become one")
def test_a_directory_of_another_user_that_can_only_be_read(small_disk: Path) -> None:
    """As root nothing is forbidden, so a child that is nobody tries: a new one there, and one that it may only read."""
    with pytinykv.open(small_disk / "db") as db:
        put(db, b"k", b"v")
    for parent in (small_disk, *list(small_disk.parents)[:3]):
        parent.chmod(0o755)
    for name in ("db", "new"):
        assert f"DatabaseError: no permission to use {small_disk / name}" in opened_by_nobody(small_disk / name)
    (small_disk / "db" / "lock").chmod(0o666)
    assert "no permission to use" in opened_by_nobody(small_disk / "db"), "what is below the lock"
    with pytinykv.open(small_disk / "db") as db:
        assert rows(db) == {b"k": b"v"}


def opened_by_nobody(path: Path) -> str:
    """Return what a process without rights is told that opens a database."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            rocks_forks._threads.are_lost = False  # an opening that is refused needs none of them
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            pytinykv.open(path).close()
        except BaseException as error:  # noqa: BLE001 - the parent judges it
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    return told


# --- gone ---------------------------------------------------------------------------------------------------------


def refused_write(db: pytinykv.Client) -> DatabaseError:
    """Write until it is refused; return why."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            put(db, b"k", b"not the first")
        except DatabaseError as error:
            return error
        time.sleep(0.01)
    pytest.fail("writes go on into files that nobody will find")


@pytest.mark.parametrize("durability", ["full", "relaxed"])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_directory_that_goes_while_it_is_open_takes_no_more_writes(tmp_path: Path, how: str, durability: str) -> None:
    path = tmp_path / "data"
    with pytinykv.open(path, durability=durability) as db:  # type: ignore[arg-type]  # one of the two
        put(db, b"k", b"v")
        path.rename(tmp_path / "moved")
        if how == "deleted":
            shutil.rmtree(tmp_path / "moved")
        elif how == "replaced":
            path.mkdir()
        error = refused_write(db)
        assert f"nothing was changed: {path} was deleted, moved or replaced while it was open" in str(error)
        with pytest.raises(DatabaseError, match="was deleted, moved or replaced"):
            db.raw.put(b"k", b"v")
        assert b"k" in rows(db), "reads go on"
    assert list(path.glob("*")) == [], "nothing is written where it was"
    if how == "moved":
        with pytinykv.open(tmp_path / "moved") as found:
            assert b"k" in rows(found)
    else:
        with pytinykv.open(path) as fresh:
            assert rows(fresh) == {}


def test_a_path_that_is_held_by_a_database_whose_directory_has_gone_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with pytinykv.open(path):
        shutil.rmtree(path)
        with pytest.raises(DatabaseInUseError, match="choose another path, or start the process anew"):
            pytinykv.open(path)
        shutil.rmtree(path)  # else the first one would be kept, as its path leads to files of another


FIRST = """
import sys, time, pytinykv
with pytinykv.open(sys.argv[1]) as db:
    db.run(lambda txn: txn.put(b"first", b"v"))
    print("open", flush=True)
    sys.stdin.readline()
    while True:
        try:
            db.run(lambda txn: txn.put(b"k", b"not the first"))
        except pytinykv.ClientError as error:
            print(type(error).__name__, error, flush=True)
            break
        time.sleep(0.01)
    for _ in range(60):  # more than RocksDB keeps in memory
        try:
            db.run(lambda txn: txn.put(b"k", bytes(500_000)))
        except pytinykv.ClientError:
            continue
        raise SystemExit("written")
"""


def test_one_that_was_deleted_does_no_harm_to_the_next_one(tmp_path: Path) -> None:
    """RocksDB goes by the path: it makes its files there, and when it is closed deletes those that it does not know."""
    path = tmp_path / "data"
    argv = [sys.executable, "-c", FIRST, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "open\n"
        shutil.rmtree(path)
        with pytinykv.open(path) as db:
            for number in range(20):
                put(db, b"%03d" % number, b"x" * 500_000)
        with pytinykv.open(path) as db:
            put(db, b"last", b"v")
            files = {file.name for file in (path / "engine").iterdir()}
            first.stdin.write("\n")
            first.stdin.close()
            told = first.stdout.read()
            assert first.wait(60) == 0, told
            assert told.startswith(f"DatabaseError nothing was changed: {path} was deleted, moved or replaced"), told
            assert {file.name for file in (path / "engine").iterdir()} == files
    with pytinykv.open(path) as db:
        assert list(rows(db)) == [*(b"%03d" % number for number in range(20)), b"last"]

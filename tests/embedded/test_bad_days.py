"""What a database says on bad days: paths that are something else, a second process, a fork, a close, an old snapshot."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import pytinykv
from pytinykv import aio
from pytinykv.client import (
    ClientClosedError,
    DatabaseError,
    DatabaseInUseError,
    DatabaseMismatchError,
    InvalidArgumentError,
    InvalidTypeError,
    SnapshotTooOldError,
    TransactionClosedError,
    WrongEventLoopError,
)
from pytinykv.storage import ColumnFamily, DataDirectory, DataKind

MANY = {b"%d" % number: b"v" for number in range(3000)}
"""More than a page of a scan."""


def put(db: pytinykv.Client, key: bytes, value: bytes) -> None:
    with db.transaction() as txn:
        txn.put(key, value)


# --- opening ------------------------------------------------------------------------------------------------------


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    with pytest.raises(DatabaseError, match=r"file is not a directory .*: choose another path"):
        pytinykv.open(path)
    assert path.read_text() == "text"


@pytest.mark.parametrize("kind", [DataKind.STORE, DataKind.SCHEDULER])
def test_a_directory_of_a_server_is_refused_and_named(tmp_path: Path, kind: DataKind) -> None:
    DataDirectory.open(tmp_path / "data", kind=kind).close()
    with pytest.raises(DatabaseMismatchError, match=f"the data of a {kind.value}, not of an embedded database: "):
        pytinykv.open(tmp_path / "data")


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(DatabaseMismatchError, match=r"thesis\.txt"):
        pytinykv.open(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    pytinykv.open(tmp_path).close()
    identity = json.loads((tmp_path / "identity.json").read_text())
    (tmp_path / "identity.json").write_text(json.dumps(identity | {"format_version": 99}))
    with pytest.raises(DatabaseMismatchError, match="format version 99"):
        pytinykv.open(tmp_path)


def test_arguments_that_can_not_be_right(tmp_path: Path) -> None:
    refused: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: pytinykv.open(""), InvalidArgumentError),
        (lambda: pytinykv.open(7), InvalidTypeError),  # type: ignore[arg-type]  # the test
        (lambda: pytinykv.open("a\0b"), InvalidArgumentError),
        (lambda: pytinykv.open(None, history_s="600"), InvalidTypeError),  # type: ignore[arg-type]  # the test
        (lambda: pytinykv.open(b""), InvalidArgumentError),  # type: ignore[arg-type]  # the test
        (lambda: pytinykv.open(None, durability="none"), InvalidArgumentError),  # type: ignore[arg-type]  # the test
        (lambda: pytinykv.open(None, history_s=0), InvalidArgumentError),
        (lambda: pytinykv.open(None, history_s=float("nan")), InvalidArgumentError),
        (lambda: pytinykv.open(None, timeout=-1), InvalidArgumentError),
    ]
    for call, error in refused:
        with pytest.raises(error):
            call()


# --- who may use it -----------------------------------------------------------------------------------------------

HOLDER = """
import sys, pytinykv
with pytinykv.open(sys.argv[1]) as db:
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_of_the_first(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        try:
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(DatabaseInUseError) as refused:
                pytinykv.open(tmp_path)
            assert refused.value.holder_pid == holder.pid
            text = str(refused.value)
            assert f"pid {holder.pid} on host {socket.gethostname()}, since 20" in text
        finally:
            holder.stdin.close()
    pytinykv.open(tmp_path).close()


def test_the_same_process_is_told_of_itself(tmp_path: Path) -> None:
    with (
        pytinykv.open(tmp_path),
        pytest.raises(DatabaseInUseError, match=r"this process already .* or close that first"),
    ):
        pytinykv.open(tmp_path)


def in_child(work: Callable[[], None]) -> str:
    """Return what work raises in a forked child, which then ends as programs do."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the parent judges it
                os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read, "rb") as pipe:
            return pipe.read().decode()
    finally:
        os.waitpid(pid, 0)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_forked_child_can_not_use_it_and_the_parent_goes_on(tmp_path: Path, where: str) -> None:
    with pytinykv.open(None if where == "memory" else tmp_path) as db:
        put(db, b"k", b"v")
        snapshot, txn = db.snapshot(), db.transaction()
        assert snapshot.get(b"k") == b"v"
        txn.put(b"k", b"child's")
        db.raw.batch_put(MANY)
        half_read = db.raw.scan()
        next(half_read)
        calls: list[Callable[[], object]] = [
            lambda: list(half_read),
            lambda: db.run(lambda txn: txn.put(b"k", b"v")),
            lambda: snapshot.get(b"k"),
            lambda: list(snapshot.scan()),
            lambda: txn.get(b"other"),
            txn.commit,
            db.transaction,
            lambda: db.raw.get(b"k"),
            lambda: db.raw.put(b"k", b"v"),
        ]
        for call in calls:
            said = in_child(call)  # type: ignore[arg-type]  # what it returns
            assert said.startswith(f"ClientForkedError: this database was opened by process {os.getpid()}"), call
        assert in_child(db.close) == ""
        txn.rollback()
        put(db, b"k", b"parent's")
        assert db.snapshot().get(b"k") == b"parent's"


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
def test_a_forked_child_opens_no_database_on_disk_after_its_parent_has(tmp_path: Path, is_closed: bool) -> None:
    """RocksDB's threads are not there: its writes would wait for ever once its memtables were full."""
    db = pytinykv.open(tmp_path / "parent's")
    if is_closed:
        db.close()
    said = in_child(lambda: pytinykv.open(tmp_path / "child's").close())
    assert said.startswith("ClientForkedError: process ")
    assert "open databases only after the fork" in said
    assert not (tmp_path / "child's").exists()
    assert in_child(lambda: pytinykv.open(None).close()) == ""
    db.close()


def test_a_forked_child_ends_with_the_status_that_it_chose(tmp_path: Path) -> None:
    """RocksDB's end joins the parent's threads: the child was killed by SIGSEGV, with nothing written that C had buffered."""
    code = (
        "import ctypes, os, sys, time, pytinykv\n"
        "db = pytinykv.open(sys.argv[1])\n"
        "for number in range(50):\n"
        "    db.raw.put(b'%d' % number, bytes(100_000))\n"
        "if os.fork() == 0:\n"
        "    ctypes.CDLL(None).puts(b'of the child')\n"
        "    sys.exit(7)\n"
        "status = os.waitstatus_to_exitcode(os.wait()[1])\n"
        "print(f'it ended with {status}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.splitlines() == ["of the child", "it ended with 7"]


def test_a_child_outlives_its_parent_without_keeping_the_directory(tmp_path: Path) -> None:
    code = (
        "import os, sys, time, pytinykv\n"
        "db = pytinykv.open(sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    time.sleep(30)\n"
        "    os._exit(0)\n"
        "print(os.getpid(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.wait(10)
        try:
            pytinykv.open(tmp_path).close()
        finally:
            os.killpg(parent.pid, 9)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_what_is_used_after_the_close_says_so(tmp_path: Path, where: str) -> None:
    """Transactions, snapshots and half-read scans too, which would otherwise read an engine that is gone."""
    db = pytinykv.open(None if where == "memory" else tmp_path)
    with db.transaction() as txn:
        for key, value in MANY.items():
            txn.put(key, value)
    db.raw.batch_put(MANY)
    snapshot, reading, writing, locking = (
        db.snapshot(),
        db.transaction(),
        db.transaction(),
        db.transaction(pessimistic=True),
    )
    writing.put(b"new", b"v")
    locking.put(b"locked", b"v")
    scans = [snapshot.scan(), reading.scan(), writing.scan(), db.raw.scan(), snapshot.scan(reverse=True)]
    for scan in scans:
        next(scan)
    with pytest.warns(ResourceWarning, match="2 transaction"):
        db.close()
    uses: list[Callable[[], object]] = [
        *(lambda scan=scan: list(scan) for scan in scans),  # type: ignore[misc]  # the scan of this round
        lambda: snapshot.get(b"0"),
        lambda: snapshot.get_many([b"0"]),
        lambda: list(snapshot.scan()),
        lambda: reading.get(b"0"),
        reading.commit,
        lambda: writing.get(b"new"),
        writing.commit,
        writing.rollback,
        lambda: locking.lock(b"0"),
        locking.commit,
        lambda: db.run(lambda txn: txn.get(b"0")),
        lambda: db.raw.put(b"0", b"v"),
        lambda: db.raw.batch_put(MANY),
        lambda: list(db.raw.scan()),
        db.transaction,
        db.snapshot,
        db.timestamp,
    ]
    for use in uses:
        with pytest.raises(ClientClosedError):
            use()
    with pytest.raises(TransactionClosedError, match="is closed with its client"):
        writing.put(b"new", b"w")
    db.close()


async def test_what_is_used_after_the_close_of_an_asyncio_database_says_so(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as db:
        async with db.transaction() as txn:
            for key, value in MANY.items():
                await txn.put(key, value)
        snapshot, reading = await db.snapshot(), await db.transaction()
        scans = [snapshot.scan(), reading.scan()]
        for scan in scans:
            await anext(scan)

    async def read_on(scan: AsyncIterator[object]) -> None:
        async for _ in scan:  # it shows first what it has read ahead
            pass

    for scan in scans:
        with pytest.raises(ClientClosedError):
            await read_on(scan)
    with pytest.raises(ClientClosedError):
        await snapshot.get(b"0")
    with pytest.raises(TransactionClosedError, match="is closed with its client"):
        await reading.get(b"0")
    for late in (db.transaction, db.snapshot, db.timestamp, lambda: db.raw.get(b"0")):
        with pytest.raises(ClientClosedError):
            await late()


async def test_opening_in_the_thread_of_a_loop(tmp_path: Path) -> None:
    with pytinykv.open(tmp_path / "blocking") as db:  # works, and blocks: a loop's programs have aio.open
        put(db, b"k", b"v")
    async with aio.open(tmp_path / "asyncio") as other:
        assert await (await other.snapshot()).get(b"k") is None
        snapshot = await other.snapshot()

        def elsewhere() -> None:
            with pytest.raises(WrongEventLoopError):
                asyncio.run(snapshot.get(b"k"))

        await asyncio.to_thread(elsewhere)
    with pytest.raises(ClientClosedError):
        await snapshot.get(b"k")


def test_an_asyncio_database_needs_a_loop() -> None:
    with pytest.raises(WrongEventLoopError):
        aio.open(None)


def committed_by_two(txn: pytinykv.Transaction) -> list[object]:
    """Return what comes of two threads that commit a transaction at once."""
    outcomes: list[object] = []
    barrier = threading.Barrier(2)

    def end() -> None:
        barrier.wait()
        try:
            outcomes.append(txn.commit())
        except pytinykv.TransactionError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=end) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_a_transaction_in_two_threads_commits_once() -> None:
    with pytinykv.open(None) as db:
        for _ in range(20):
            txn = db.transaction()
            txn.put(b"k", b"v")
            outcomes = committed_by_two(txn)
            assert sum(isinstance(outcome, int) for outcome in outcomes) == 1, outcomes


def test_closing_ends_who_waits_for_a_lock(tmp_path: Path) -> None:
    db = pytinykv.open(tmp_path)
    holder, waiter = db.transaction(pessimistic=True), db.transaction(pessimistic=True)
    holder.put(b"k", b"1")
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            waiter.put(b"k", b"2", timeout=60)
        except ClientClosedError as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    core = db._core
    while not len(core.database.executor.waits):  # type: ignore[attr-defined]  # an EmbeddedCore
        time.sleep(0.001)
    with pytest.warns(ResourceWarning, match="1 transaction"):
        db.close()
    thread.join(10)
    assert outcome


def test_a_forgotten_database_warns_and_lets_go_of_its_directory(tmp_path: Path) -> None:
    db = pytinykv.open(tmp_path)
    put(db, b"k", b"v")
    with pytest.warns(ResourceWarning, match="never closed"):
        del db

    def is_free() -> bool:
        try:
            with pytinykv.open(tmp_path) as again:
                return again.snapshot().get(b"k") == b"v"
        except DatabaseInUseError:
            return False

    wait_until(is_free, "the directory is still held")


# --- old versions -------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_an_open_snapshot_keeps_what_it_shows_beside_writes(tmp_path: Path, where: str) -> None:
    with pytinykv.open(None if where == "memory" else tmp_path, history_s=0.01) as db:
        put(db, b"k", b"first")
        put(db, b"k", b"second")
        snapshot = db.snapshot()
        before = snapshot.ts
        for number in range(10):
            put(db, b"k", b"%d" % number)
        garbage = db._core.background.garbage  # type: ignore[attr-defined]  # an EmbeddedCore
        wait_until(lambda: garbage.collected_ts >= before, "no garbage was collected")
        assert garbage.collected_ts == before  # no further
        assert snapshot.get(b"k") == b"second"
        assert list(snapshot.scan()) == [(b"k", b"second")]
        del snapshot
        put(db, b"k", b"last")
        last = db.snapshot().ts
        put(db, b"other", b"x")
        wait_until(lambda: garbage.collected_ts >= last, "what the snapshot has held back was not collected")
        assert garbage.deleted == 12
        with pytest.raises(SnapshotTooOldError, match="history_s"):
            db.snapshot(before)
        assert db.snapshot().get(b"k") == b"last"


def test_a_forgotten_transaction_releases_its_locks() -> None:
    with pytinykv.open(None) as db:
        txn = db.transaction(pessimistic=True)
        txn.put(b"k", b"1")
        with pytest.warns(ResourceWarning, match="never committed"):
            del txn
        with db.transaction(pessimistic=True) as other:
            other.put(b"k", b"2", timeout=10)
        assert db.snapshot().get(b"k") == b"2"


def test_relaxed_commits_are_durable_after_a_moment_and_after_a_close(tmp_path: Path) -> None:
    with pytinykv.open(tmp_path, durability="relaxed") as db:
        put(db, b"k", b"v")
        db.raw.put(b"k", b"raw")
        assert db.snapshot().get(b"k") == b"v"
    with pytinykv.open(tmp_path) as db:
        assert (db.snapshot().get(b"k"), db.raw.get(b"k")) == (b"v", b"raw")


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_expired_raw_values_are_deleted_and_renewed_ones_stay(tmp_path: Path, where: str) -> None:
    with pytinykv.open(None if where == "memory" else tmp_path, history_s=0.01) as db:
        db.raw.batch_put({b"gone/%04d" % number: b"v" for number in range(1500)}, ttl=1)
        db.raw.put(b"renewed", b"v", ttl=1)
        db.raw.put(b"stays", b"v")
        db.raw.put(b"renewed", b"v", ttl=100)
        core = db._core
        garbage, engine = core.background.garbage, core.database.engine  # type: ignore[attr-defined]  # an EmbeddedCore
        wait_until(lambda: garbage.expired == 1500, "expired values are still there")
        with core.database.writer:  # type: ignore[attr-defined]  # as above
            assert [key[1:] for key, _ in engine.scan(ColumnFamily.RAW, b"", None)] == [b"renewed", b"stays"]


def test_raw_values_are_looked_at_for_expiry_only_when_one_can_have_expired(tmp_path: Path) -> None:
    with pytinykv.open(tmp_path, history_s=0.01) as db:
        db.raw.put(b"written before the next start", b"v", ttl=1)
        db.raw.put(b"stays", b"v")
    with pytinykv.open(tmp_path, history_s=0.01) as db:
        core = db._core
        garbage, database = core.background.garbage, core.database  # type: ignore[attr-defined]  # an EmbeddedCore
        wait_until(lambda: garbage.expired == 1, "the old value is still there")
        wait_until(lambda: database.first_expiry_s == math.inf, "the pass has not ended")
        scanned: list[ColumnFamily] = []
        original = database.engine.cursor
        database.engine.cursor = lambda cf, *rest: scanned.append(cf) or original(cf, *rest)
        db.raw.put(b"lives on", b"v", ttl=1000)
        passes: set[int] = set()

        def has_passed_by() -> bool:
            put(db, b"k", b"v")
            passes.add(garbage.collected_ts)
            return len(passes) > 4

        wait_until(has_passed_by, "garbage is not collected any more")
        assert ColumnFamily.RAW not in scanned
        db.raw.put(b"ends", b"v", ttl=1)
        wait_until(lambda: garbage.expired == 2, "the new value is still there")
        assert ColumnFamily.RAW in scanned

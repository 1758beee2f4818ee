"""A database in this process: opened, used, closed, opened again."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytinykv
from pytinykv.client import ClientClosedError, WriteConflictError
from pytinykv.client.txn.records import PUT, BufferedWrite
from pytinykv.embedded.database import BOUND_KEY, Database
from pytinykv.storage import ColumnFamily, MemoryEngine
from pytinykv.wire.timestamp import Timestamp


@pytest.fixture(params=["memory", "disk"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[pytinykv.Client]:
    with pytinykv.open(None if request.param == "memory" else tmp_path / "data") as client:
        yield client


def test_a_transaction_is_there_for_all_that_begin_later(db: pytinykv.Client) -> None:
    before = db.snapshot()
    with db.transaction() as txn:
        txn.put(b"a", b"1")
        txn.put(b"b", b"2" * 1000)
    assert (before.get(b"a"), list(before.scan())) == (None, [])
    assert list(db.snapshot().scan()) == [(b"a", b"1"), (b"b", b"2" * 1000)]


def test_of_two_that_write_one_key_one_is_refused(db: pytinykv.Client) -> None:
    first, second = db.transaction(), db.transaction()
    first.put(b"k", b"1")
    second.put(b"k", b"2")
    first.commit()
    with pytest.raises(WriteConflictError) as refused:
        second.commit()
    assert refused.value.key == b"k"
    assert db.snapshot().get(b"k") == b"1"


def test_what_was_committed_is_there_after_reopening_and_timestamps_go_on(tmp_path: Path) -> None:
    with pytinykv.open(tmp_path) as db:
        with db.transaction() as txn:
            txn.put(b"k", b"v")
        db.raw.put(b"r", b"raw")
        last = db.timestamp()
    with pytinykv.open(tmp_path) as db:
        assert (db.snapshot().get(b"k"), db.raw.get(b"r")) == (b"v", b"raw")
        assert db.timestamp() > last


def test_threads_that_count_lose_no_step(db: pytinykv.Client) -> None:
    def count(txn: pytinykv.Transaction) -> None:
        txn.put(b"n", str(int(txn.get(b"n") or b"0") + 1).encode())

    def work() -> None:
        for _ in range(25):
            db.run(count)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert db.snapshot().get(b"n") == b"100"


def test_transactions_that_have_ended_leave_nothing_to_the_garbage_collector(db: pytinykv.Client) -> None:
    """Else they cost its time, and stay in memory until then."""

    def commit() -> None:
        with db.transaction() as txn:
            txn.put(b"k", b"v")
            txn.get(b"k")

    def commit_nothing() -> None:
        with db.transaction() as txn:
            txn.get(b"k")

    def roll_back() -> None:
        txn = db.transaction(pessimistic=True)
        txn.put(b"k", b"v")
        txn.rollback()

    ways = (commit, commit_nothing, roll_back)
    for way in ways:
        way()
    gc.collect()
    gc.disable()
    try:
        for way in ways:
            way()
            assert gc.collect() == 0, way.__name__
    finally:
        gc.enable()


def test_a_closed_database_says_so(tmp_path: Path) -> None:
    db = pytinykv.open(tmp_path)
    snapshot = db.snapshot()
    db.close()
    db.close()
    for call in (lambda: snapshot.get(b"k"), db.transaction, db.snapshot, lambda: db.raw.get(b"k"), db.timestamp):
        with pytest.raises(ClientClosedError):
            call()


def test_a_clock_that_leaps_in_the_middle_of_a_commit_leaves_the_next_run_above_it() -> None:
    wall_ms = 1_000_000
    engine = MemoryEngine()
    database = Database(engine, None, name="leaping", is_relaxed=False, wall_ms=lambda: wall_ms)
    next_commit = database.oracle.next_commit

    def leap() -> Timestamp:
        nonlocal wall_ms
        wall_ms += 60_000
        return next_commit()

    database.oracle.next_commit = leap  # type: ignore[method-assign]
    txn = database.begin(time.monotonic() + 10, is_pessimistic=False)
    commit_ts = database.commit(txn, [BufferedWrite(b"k", PUT, b"v")], time.monotonic() + 10)
    bound = engine.get(ColumnFamily.RAFT, BOUND_KEY)
    assert bound is not None
    assert int.from_bytes(bound, "big") >= commit_ts, "where a clock that goes back begins"

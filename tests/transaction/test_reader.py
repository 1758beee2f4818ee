"""One key at a timestamp: versions, locks, records of transactions."""

from __future__ import annotations

import pytest
from tests.transaction.txn_store import LONG, TxnStore, delete, lock_only, put

from pytinykv.storage import ColumnFamily
from pytinykv.transaction import ReadView, TxnErrorRaised
from pytinykv.transaction.commands import Isolation
from pytinykv.transaction.errors import ConflictReason, KeyIsLocked, SnapshotTooOld, WriteConflict
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import RecordFormatError, WriteKind
from pytinykv.transaction.stored_keys import encode_bytes, stored_key
from pytinykv.wire.timestamp import MAX_TIMESTAMP

K = b"k"


@pytest.mark.tinykv("TestGetEmpty4B")
def test_there_is_nothing_in_an_empty_store(store: TxnStore) -> None:
    assert store.get(K, 100) is None


@pytest.mark.tinykv("TestGetNone4B", "TestGetValueMissing4A")
def test_a_key_between_others_that_was_never_written_is_absent(store: TxnStore) -> None:
    store.write(1, 2, put(b"a"), put(b"z"), put(b"k\0"))
    assert store.get(K, 100) is None


@pytest.mark.tinykv("TestGetValue4B", "TestGetValueSimple4A")
@pytest.mark.parametrize("value", [b"", b"v", bytes(255), LONG])
def test_a_committed_value_is_read(store: TxnStore, value: bytes) -> None:
    store.write(50, 54, put(K, value))
    assert store.get(K) == value


@pytest.mark.tinykv("TestGetValueTs4B", "TestGetValueTooEarly4A")
@pytest.mark.parametrize(("version", "seen"), [(49, None), (50, None), (53, None), (54, b"v"), (55, b"v")])
def test_it_is_seen_from_its_commit_on(store: TxnStore, version: int, seen: bytes | None) -> None:
    store.write(50, 54, put(K))
    assert store.get(K, version) == seen


@pytest.mark.tinykv("TestGetVersions4B", "TestGetValueOverwritten4A", "TestGetValueNotOverwritten4A")
@pytest.mark.parametrize(
    ("version", "seen"), [(53, None), (54, b"1"), (69, b"1"), (70, b"2"), (122, b"2"), (123, b"3")]
)
def test_a_reader_sees_the_newest_version_at_its_timestamp(store: TxnStore, version: int, seen: bytes | None) -> None:
    store.write(50, 54, put(K, b"1"))
    store.write(65, 70, put(K, b"2"))
    store.write(120, 123, put(K, b"3"))
    assert store.get(K, version) == seen


@pytest.mark.tinykv("TestGetDeleted4B", "TestGetValueDeleted4A", "TestGetValueNotDeleted4A")
@pytest.mark.parametrize(("version", "seen"), [(54, b"1"), (99, b"1"), (100, None), (122, None), (123, b"3")])
def test_a_deleted_key_is_absent_until_it_is_written_again(store: TxnStore, version: int, seen: bytes | None) -> None:
    store.write(50, 54, put(K, b"1"))
    store.write(60, 100, delete(K))
    store.write(120, 123, put(K, b"3"))
    assert store.get(K, version) == seen


@pytest.mark.tinykv("TestGetLocked4B")
def test_a_lock_below_the_reader_is_in_its_way(store: TxnStore) -> None:
    store.write(50, 54, put(K, b"old"))
    store.must(store.prewrite(200, put(K, b"new"), primary=b"p", txn_size=7))
    assert store.get(K, 199) == b"old"
    with pytest.raises(TxnErrorRaised) as raised:
        store.get(K, 200)
    error = raised.value.error
    assert isinstance(error, KeyIsLocked)
    assert (error.key, error.lock.primary, error.lock.start_ts, error.lock.ttl_ms) == (K, b"p", 200, 3000)
    assert error.lock.txn_size == 7


def test_read_committed_passes_locks(store: TxnStore) -> None:
    store.write(50, 54, put(K, b"old"))
    store.must(store.prewrite(60, put(K, b"new")))
    assert store.get(K, 100, isolation=Isolation.RC) == b"old"


def test_locks_that_write_nothing_are_passed(store: TxnStore) -> None:
    store.write(1, 2, put(K, b"old"))
    store.must(store.pessimistic(10, 10, K))
    assert store.get(K, 100) == b"old"
    store.must(store.pessimistic_rollback(10, 10, K))
    store.must(store.prewrite(20, lock_only(K)))
    assert store.get(K, 100) == b"old"


def test_a_lock_that_commits_above_the_reader_is_passed(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K), min_commit_ts=51))
    assert store.get(K, 50) is None
    with pytest.raises(TxnErrorRaised):
        store.get(K, 51)


def test_resolved_locks_are_passed_and_committed_ones_are_read(store: TxnStore) -> None:
    store.write(1, 2, put(K, b"old"), put(b"d"), put(b"l"))
    store.must(store.prewrite(10, put(K, b"new"), put(b"l", LONG), delete(b"d")))
    assert store.get(K, 50, resolved_locks=frozenset({10})) == b"old"
    assert store.get(K, 50, committed_locks=frozenset({10})) == b"new"
    assert store.get(b"l", 50, committed_locks=frozenset({10})) == LONG
    assert store.get(b"d", 50, committed_locks=frozenset({10})) is None


def test_the_newest_state_is_read_past_an_uncommitted_primary_only(store: TxnStore) -> None:
    store.write(1, 2, put(K, b"old"), put(b"s", b"old"))
    store.must(store.prewrite(10, put(K, b"new"), put(b"s", b"new")))
    assert store.get(K, MAX_TIMESTAMP) == b"old"
    with pytest.raises(TxnErrorRaised):
        store.get(b"s", MAX_TIMESTAMP)


def test_the_newest_state_waits_for_a_primary_with_async_commit(store: TxnStore) -> None:
    """It is committed already if all its secondaries are locked, which nobody knows here."""
    store.must(store.prewrite(10, put(K), secondaries=(b"s",)))
    with pytest.raises(TxnErrorRaised):
        store.get(K, MAX_TIMESTAMP)


def test_read_committed_with_check_refuses_what_is_newer(store: TxnStore) -> None:
    store.write(10, 20, put(K, b"1"))
    assert store.get(K, 20, isolation=Isolation.RC_CHECK_TS) == b"1"
    with pytest.raises(TxnErrorRaised) as raised:
        store.get(K, 19, isolation=Isolation.RC_CHECK_TS)
    assert isinstance(raised.value.error, WriteConflict)
    assert (raised.value.error.conflict_commit_ts, raised.value.error.reason) == (20, ConflictReason.RC_CHECK_TS)
    store.must(store.prewrite(30, put(K, b"2")))
    with pytest.raises(TxnErrorRaised, match="rc_check_ts"):
        store.get(K, 25, isolation=Isolation.RC_CHECK_TS)


def test_records_that_change_nothing_are_passed_however_many(store: TxnStore) -> None:
    store.write(1, 2, put(K, b"old"))
    for start_ts in range(10, 200, 10):
        store.write(start_ts, start_ts + 1, lock_only(K))
        store.must(store.rollback(start_ts + 5, K))
    newest = store.writes(K)[1]
    assert newest[1].last_change is not None
    assert newest[1].last_change.commit_ts == 2
    assert store.get(K) == b"old"
    assert store.get(K, 105) == b"old"


def test_a_lock_record_over_nothing_says_so(store: TxnStore) -> None:
    store.write(10, 11, lock_only(K))
    store.write(20, 21, lock_only(K))
    assert [write.last_change.commit_ts for _, write in store.writes(K) if write.last_change] == [0, 0]
    assert store.get(K) is None


def test_below_the_safe_point_a_reader_is_told_so(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    store.safe_point = 30
    assert store.get(K, 30) == b"v"
    with pytest.raises(TxnErrorRaised) as raised:
        store.get(K, 29)
    assert isinstance(raised.value.error, SnapshotTooOld)
    assert str(raised.value.error).startswith("snapshot too old")


def test_a_missing_long_value_is_damage_and_not_absence(store: TxnStore) -> None:
    store.write(10, 20, put(K, LONG))
    batch = store.engine.write_batch()
    batch.delete(ColumnFamily.DEFAULT, stored_key(encode_bytes(K), 10))  # type: ignore[arg-type]
    store.engine.write(batch)
    with pytest.raises(RecordFormatError, match="missing in column family default"):
        store.get(K)


@pytest.mark.tinykv("TestMostRecentWrite4A")
def test_the_newest_record_of_a_key_is_found_by_a_seek(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    store.write(30, 40, delete(K))
    with store.reader() as reader:
        found = reader.seek_write(encode_bytes(K), MAX_TIMESTAMP)
        assert found is not None
        assert (found[0], found[1].kind) == (40, WriteKind.DELETE)
        assert reader.seek_write(encode_bytes(b"j"), MAX_TIMESTAMP) is None


@pytest.mark.tinykv("TestCurrentWrite4A")
def test_a_transactions_own_record_is_found_among_others(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    store.write(30, 40, delete(K))
    store.must(store.rollback(50, K))
    with store.reader() as reader:
        assert reader.commit_record(encode_bytes(K), 10).commit_ts == 20  # type: ignore[arg-type]
        assert reader.commit_record(encode_bytes(K), 30).is_committed  # type: ignore[arg-type]
        assert reader.commit_record(encode_bytes(K), 50).is_rolled_back  # type: ignore[arg-type]
        assert reader.commit_record(encode_bytes(K), 35).write is None  # type: ignore[arg-type]
        overlapped = reader.commit_record(encode_bytes(K), 20)  # type: ignore[arg-type]
    assert (overlapped.write, overlapped.gc_fence) == (None, 40)
    assert overlapped.overlapped is not None
    assert overlapped.overlapped.start_ts == 10


def test_a_batch_has_an_error_in_place_of_a_locked_key(store: TxnStore) -> None:
    store.write(1, 2, put(b"a", b"1"), put(b"b", b"2"))
    store.must(store.prewrite(10, put(b"b")))
    with store.reader() as reader:
        rows = list(reader.batch_get([b"b", b"none", b"a"], ReadView(50)))  # type: ignore[arg-type]
    assert [(row.key, row.value, row.error is None) for row in rows] == [(b"b", b"", False), (b"a", b"1", True)]


def test_a_closed_reader_keeps_no_state(store: TxnStore) -> None:
    store.write(1, 2, put(K, b"1"))
    reader = MvccReader(store.engine)
    assert reader.seek_write(encode_bytes(K), MAX_TIMESTAMP) is not None
    reader.close()
    reader.close()
    store.write(3, 4, put(K, b"2"))
    found = reader.seek_write(encode_bytes(K), MAX_TIMESTAMP)
    assert found is not None
    assert found[0] == 4
    reader.close()

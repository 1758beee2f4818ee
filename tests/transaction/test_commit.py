"""Making visible: once, and never after a rollback."""

from __future__ import annotations

import pytest
from tests.transaction.txn_store import LONG, TxnStore, delete, lock_only, locked_put, put

from pytinykv.transaction.errors import CommitTsExpired, TxnLockNotFound
from pytinykv.transaction.results import CommitResult, ReleasedLock

K = b"k"


@pytest.mark.tinykv("TestEmptyCommit4B")
def test_nothing_to_commit_is_a_success(store: TxnStore) -> None:
    assert store.must(store.commit(10, 20)) == CommitResult(20)  # type: ignore[arg-type]
    assert store.dump() == []


@pytest.mark.tinykv("TestSingleCommit4B")
def test_one_key(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K, b"v")))
    assert store.must(store.commit(10, 20, K)) == CommitResult(20)  # type: ignore[arg-type]
    assert store.last is not None
    assert store.last.released == [ReleasedLock(K, 10, 20)]  # type: ignore[arg-type]
    assert store.lock(K) is None
    ((commit_ts, write),) = store.writes(K)
    assert (commit_ts, write.start_ts, write.short_value) == (20, 10, b"v")


@pytest.mark.tinykv("TestCommitOverwrite4B")
def test_over_an_older_version(store: TxnStore) -> None:
    store.write(1, 5, put(K, b"old"))
    store.write(10, 20, put(K, b"new"))
    assert (store.get(K, 19), store.get(K, 20)) == (b"old", b"new")


@pytest.mark.tinykv("TestCommitMultipleKeys4B")
def test_several_keys_and_nothing_else(store: TxnStore) -> None:
    store.write(1, 5, put(b"other"))
    store.must(store.prewrite(8, put(b"locked")))
    store.must(store.prewrite(10, put(b"a"), put(b"b", LONG), delete(b"c"), lock_only(b"d")))
    store.must(store.commit(10, 20, b"a", b"b", b"c", b"d"))
    assert [store.kinds(key) for key in (b"a", b"b", b"c", b"d")] == [
        ["20 PUT"],
        ["20 PUT"],
        ["20 DELETE"],
        ["20 LOCK"],
    ]
    assert store.get(b"b") == LONG
    assert store.kinds(b"other") == ["5 PUT"]
    assert store.lock(b"locked") is not None


@pytest.mark.tinykv("TestRecommitKey4B")
def test_a_key_named_twice(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K)))
    store.must(store.commit(10, 20, K, K))
    assert store.kinds(K) == ["20 PUT"]


@pytest.mark.tinykv("TestCommitConflictRepeat4B")
def test_a_repeated_commit_is_a_success_and_tells_when_it_was(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    before = store.dump()
    assert store.must(store.commit(10, 20, K)) == CommitResult(20)  # type: ignore[arg-type]
    assert store.must(store.commit(10, 25, K)) == CommitResult(20)  # type: ignore[arg-type]
    assert store.dump() == before


@pytest.mark.tinykv("TestCommitConflictRollback4B")
def test_after_a_rollback_it_is_refused(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K)))
    store.must(store.rollback(10, K))
    error = store.fails(store.commit(10, 20, K))
    assert isinstance(error, TxnLockNotFound)
    assert "TxnLockNotFound" in str(error)
    assert error.is_retryable


@pytest.mark.tinykv("TestCommitConflictRace4B")
def test_another_transactions_lock_is_not_committed(store: TxnStore) -> None:
    store.must(store.prewrite(15, put(K)))
    assert isinstance(store.fails(store.commit(10, 20, K)), TxnLockNotFound)


@pytest.mark.tinykv("TestCommitMissingPrewrite4B")
def test_without_a_prewrite_it_is_refused(store: TxnStore) -> None:
    """TinyKV takes it for a success, after which the client believes in a write that is not there."""
    assert isinstance(store.fails(store.commit(10, 20, K)), TxnLockNotFound)


def test_all_keys_or_none(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a")))
    store.fails(store.commit(10, 20, b"a", b"missing"))
    assert store.lock(b"a") is not None


def test_below_what_readers_were_promised_it_is_refused(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K), min_commit_ts=30))
    error = store.fails(store.commit(10, 29, K))
    assert isinstance(error, CommitTsExpired)
    assert (error.commit_ts, error.min_commit_ts, error.key) == (29, 30, K)
    store.must(store.commit(10, 30, K))


def test_a_pessimistic_lock_is_taken_away_and_not_committed(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, b"a", b"b"))
    store.must(store.prewrite(10, locked_put(b"a"), for_update_ts=15))
    store.must(store.commit(10, 20, b"a", b"b"))
    assert store.kinds(b"a") == ["20 PUT"]
    assert (store.kinds(b"b"), store.lock(b"b")) == ([], None)

"""Taking back, for good."""

from __future__ import annotations

import msgspec
import pytest
from tests.transaction.txn_store import LONG, TxnStore, locked_put, put, ts

from pytinykv.transaction.errors import AlreadyCommitted, KeyIsLocked, TxnLockNotFound, WriteConflict
from pytinykv.transaction.results import DONE, CleanupResult, ReleasedLock

K = b"k"


@pytest.mark.tinykv("TestEmptyRollback4C")
def test_nothing_to_roll_back_is_a_success(store: TxnStore) -> None:
    assert store.must(store.rollback(10)) is DONE
    assert store.dump() == []


@pytest.mark.tinykv("TestRollback4C")
def test_lock_and_value_go_and_a_record_stays(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K, LONG)))
    store.must(store.rollback(10, K))
    assert store.last is not None
    assert store.last.released == [ReleasedLock(K, 10)]  # type: ignore[arg-type]
    assert store.lock(K) is None
    assert [cf for cf, _, _ in store.dump()] == ["write"]
    assert store.kinds(K) == ["10 ROLLBACK"]
    assert store.get(K) is None


@pytest.mark.tinykv("TestRollbackDuplicateKeys4C")
def test_a_key_named_twice(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K), put(b"b")))
    store.must(store.rollback(10, K, b"b", K))
    assert (store.kinds(K), store.kinds(b"b")) == (["10 ROLLBACK"], ["10 ROLLBACK"])


@pytest.mark.tinykv("TestRollbackMissingPrewrite4C")
def test_without_a_prewrite_a_record_stays_to_refuse_it(store: TxnStore) -> None:
    store.must(store.rollback(10, K))
    assert store.kinds(K) == ["10 ROLLBACK"]
    assert isinstance(store.fails(store.prewrite(10, put(K))), WriteConflict)


@pytest.mark.tinykv("TestRollbackCommitted4C")
def test_what_is_committed_can_t_be_rolled_back(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    error = store.fails(store.rollback(10, b"other", K))
    assert isinstance(error, AlreadyCommitted)
    assert error.commit_ts == 20


@pytest.mark.tinykv("TestRollbackDuplicate4C")
def test_a_repeated_rollback_changes_nothing(store: TxnStore) -> None:
    store.must(store.rollback(10, K))
    before = store.dump()
    store.must(store.rollback(10, K))
    store.must(store.cleanup(10, K))
    assert store.dump() == before


@pytest.mark.tinykv("TestRollbackOtherTxn4C")
def test_another_transactions_lock_stays(store: TxnStore) -> None:
    store.must(store.prewrite(20, put(K)))
    store.must(store.rollback(10, K))
    assert store.kinds(K) == ["10 ROLLBACK"]
    store.must(store.commit(20, 30, K))
    assert isinstance(store.fails(store.commit(10, 40, K)), TxnLockNotFound)


def test_a_key_that_is_fought_over_keeps_one_record(store: TxnStore) -> None:
    for start_ts in range(10, 30):
        store.must(store.prewrite(start_ts, put(K)))
        store.must(store.rollback(start_ts, K))
    assert store.kinds(K) == ["29 ROLLBACK"]


def test_a_protected_record_is_not_collapsed(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 10, K))
    store.must(store.prewrite(10, locked_put(K), for_update_ts=10))
    store.must(store.rollback(10, K))
    store.must(store.rollback(20, K))
    store.must(store.rollback(30, K))
    assert store.kinds(K) == ["30 ROLLBACK", "10 ROLLBACK"]
    assert [write.is_protected for _, write in store.writes(K)] == [False, True]


def test_the_secondary_of_a_pessimistic_transaction_is_not_protected(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 10, K, primary=b"p"))
    store.must(store.rollback(10, K))
    assert [write.is_protected for _, write in store.writes(K)] == [False]


def test_cleanup_waits_for_the_time_to_live(store: TxnStore) -> None:
    start_ts = ts(1000)
    store.must(store.prewrite(start_ts, put(K), lock_ttl_ms=100))
    error = store.fails(store.cleanup(start_ts, K, current_ts=ts(1100)))
    assert isinstance(error, KeyIsLocked)
    assert store.must(store.cleanup(start_ts, K, current_ts=ts(1101))) == CleanupResult()
    assert store.kinds(K) == [f"{start_ts} ROLLBACK"]


def test_cleanup_without_a_time_rolls_back_at_once_and_tells_a_commit(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K)))
    assert store.must(store.cleanup(10, K)) == CleanupResult()
    store.write(20, 30, put(b"b"))
    assert store.must(store.cleanup(20, b"b")) == CleanupResult(30)  # type: ignore[arg-type]
    assert store.must(store.cleanup(40, b"never")) == CleanupResult()
    assert [write.is_protected for _, write in store.writes(b"never")] == [True]


# --- two records in one place -------------------------------------------------------------------------------------


def test_a_protected_rollback_is_noted_in_a_commit_at_its_start_ts(store: TxnStore) -> None:
    """Async commit may choose a commit_ts that is another transaction's start_ts."""
    store.write(10, 20, put(K, b"committed at 20"))
    store.write(30, 40, put(K, b"newer"))
    store.must(store.cleanup(20, K))
    overlapped = store.writes(K)[1][1]
    assert (overlapped.has_overlapped_rollback, overlapped.gc_fence, overlapped.start_ts) == (True, 40, 10)
    assert store.get(K, 25) == b"committed at 20"
    assert isinstance(store.fails(store.prewrite(20, put(K))), WriteConflict)
    assert isinstance(store.fails(store.commit(20, 50, K)), TxnLockNotFound)
    before = store.dump()
    store.must(store.cleanup(20, K))
    assert store.dump() == before


def test_so_is_an_unprotected_one(store: TxnStore) -> None:
    """TiKV leaves that out. Nothing else would refuse the prewrite: the commit there is not newer than it."""
    store.write(10, 20, put(K, b"v"))
    store.must(store.rollback(20, K))
    assert store.get(K, 25) == b"v"
    assert isinstance(store.fails(store.prewrite(20, put(K))), WriteConflict)
    store.must(store.prewrite(5, put(b"b"), secondaries=()))
    store.must(store.rollback(30, b"b"))
    lock = store.lock(b"b")
    assert lock is not None
    assert lock.rollback_ts == (30,)


def test_its_own_fence_makes_a_collected_version_that_came_back_invisible(store: TxnStore) -> None:
    """A replica that has collected 20 and 40 applies the note of the rollback at 20 late: only that record is there."""
    store.write(10, 20, put(K, b"gone"))
    store.write(30, 40, put(K, b"x"))
    store.must(store.cleanup(20, K))
    note = store.last
    assert note is not None
    fresh = TxnStore()
    fresh.apply(note)
    assert fresh.kinds(K) == ["20 PUT"]
    assert fresh.get(K, 50) is None
    assert fresh.scan(50) == []
    assert fresh.get(K, 39) == b"gone"
    fresh.engine.close()


def test_a_protected_rollback_is_noted_in_the_lock_that_might_overwrite_it(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K), secondaries=()))
    lock = store.lock(K)
    assert lock is not None
    assert lock.min_commit_ts == 11
    store.must(store.cleanup(30, K))
    store.must(store.cleanup(30, K))
    noted = store.lock(K)
    assert noted == msgspec.structs.replace(lock, rollback_ts=(30,))
    store.must(store.commit(10, 30, K))
    ((commit_ts, write),) = store.writes(K)
    assert (commit_ts, write.start_ts, write.has_overlapped_rollback) == (30, 10, True)
    assert isinstance(store.fails(store.prewrite(30, put(K))), WriteConflict)


def test_no_chosen_commit_timestamp_hits_a_rollback_that_is_there(store: TxnStore) -> None:
    store.must(store.cleanup(30, K))
    store.must(store.rollback(40, K))
    store.must(store.prewrite(50, put(b"a"), secondaries=()))
    lock = store.lock(b"a")
    assert lock is not None
    assert lock.min_commit_ts > 40

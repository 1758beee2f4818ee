"""Locking and writing down: conflicts, insertions, assertions, repetition, pessimistic checks."""

from __future__ import annotations

import msgspec
import pytest
from tests.transaction.txn_store import (
    LONG,
    TxnStore,
    check_not_exists,
    delete,
    insert,
    lock_only,
    locked_put,
    put,
)

from pytinykv.transaction import Failure
from pytinykv.transaction.commands import AssertionLevel, PessimisticAction, latch_keys
from pytinykv.transaction.errors import (
    AlreadyExists,
    Assertion,
    AssertionFailed,
    ConflictReason,
    KeyIsLocked,
    LockKindMismatch,
    LockMissing,
    PessimisticLockNotFound,
    SnapshotTooOld,
    WriteConflict,
)
from pytinykv.transaction.records import LastChange, LockKind
from pytinykv.transaction.results import PrewriteResult

K = b"k"


@pytest.mark.tinykv("TestEmptyPrewrite4B")
def test_nothing_to_prewrite_is_a_success(store: TxnStore) -> None:
    assert store.must(store.prewrite(10)) == PrewriteResult()
    assert store.dump() == []


@pytest.mark.tinykv("TestSinglePrewrite4B")
def test_one_key(store: TxnStore) -> None:
    assert store.must(store.prewrite(10, put(K, b"v"), lock_ttl_ms=7, txn_size=3)) == PrewriteResult()
    lock = store.lock(K)
    assert lock is not None
    assert (lock.kind, lock.primary, lock.start_ts, lock.ttl_ms, lock.short_value) == (LockKind.PUT, K, 10, 7, b"v")
    assert lock.txn_size == 3
    assert len(store.dump()) == 1
    assert store.last is not None
    assert [info.key for info in store.last.new_locks] == [K]


def test_a_long_value_stands_beside_the_lock(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K, LONG)))
    lock = store.lock(K)
    assert lock is not None
    assert lock.short_value is None
    assert [value for cf, _, value in store.dump() if cf == "default"] == [LONG]


@pytest.mark.tinykv("TestPrewriteMultiple4B")
def test_several_keys_and_kinds(store: TxnStore) -> None:
    command = store.prewrite(10, put(b"a"), delete(b"b"), lock_only(b"c"), insert(b"d"), check_not_exists(b"e"))
    store.must(command)
    found = [store.lock(key) for key in (b"a", b"b", b"c", b"d", b"e")]
    kinds = [lock and lock.kind for lock in found]
    assert kinds == [LockKind.PUT, LockKind.DELETE, LockKind.LOCK, LockKind.PUT, None]
    assert {lock.primary for lock in found if lock} == {b"a"}
    assert latch_keys(command) == (b"a", b"b", b"c", b"d", b"e")


@pytest.mark.tinykv("TestMultiplePrewrites4B")
def test_transactions_on_different_keys_don_t_meet(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a")))
    store.must(store.prewrite(20, put(b"b")))
    assert store.lock(b"a") != store.lock(b"b")


@pytest.mark.tinykv("TestPrewriteOverwrite4B")
def test_of_two_writes_to_one_key_the_second_counts(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K, LONG), put(K, b"second")))
    lock = store.lock(K)
    assert lock is not None
    assert lock.short_value == b"second"
    assert len(store.dump()) == 1


@pytest.mark.tinykv("TestPrewriteLocked4B")
def test_a_locked_key_is_refused_with_its_lock(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K, b"first")))
    error = store.fails(store.prewrite(20, put(K, b"second")))
    assert isinstance(error, KeyIsLocked)
    assert (error.key, error.lock) == (K, store.lock(K))
    assert error.is_retryable


def test_all_locked_keys_are_told_and_none_of_the_others_is_locked(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a"), put(b"c")))
    result = store.run(store.prewrite(20, put(b"a"), put(b"b"), put(b"c")))
    assert isinstance(result, Failure)
    assert [(type(error), error.key) for error in result.errors] == [(KeyIsLocked, b"a"), (KeyIsLocked, b"c")]
    assert store.lock(b"b") is None


@pytest.mark.tinykv("TestPrewriteWritten4B")
@pytest.mark.parametrize("newer", [put(K), delete(K), lock_only(K)])
def test_what_was_committed_after_the_snapshot_is_a_conflict(store: TxnStore, newer: object) -> None:
    store.write(20, 30, newer)  # type: ignore[arg-type]
    error = store.fails(store.prewrite(25, put(K)))
    assert isinstance(error, WriteConflict)
    assert (error.start_ts, error.conflict_start_ts, error.conflict_commit_ts) == (25, 20, 30)
    assert (error.key, error.primary, error.reason) == (K, K, ConflictReason.OPTIMISTIC)


@pytest.mark.tinykv("TestPrewriteWrittenNoConflict4B")
def test_what_was_committed_before_is_none(store: TxnStore) -> None:
    store.write(20, 30, put(K, b"old"))
    store.must(store.prewrite(31, put(K, b"new")))
    assert store.get(K, 30) == b"old"


def test_a_conflict_counts_for_more_than_a_lock(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a")))
    store.write(20, 30, put(b"b"))
    assert isinstance(store.fails(store.prewrite(25, put(b"a"), put(b"b"))), WriteConflict)


def test_insert_needs_absence(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    error = store.fails(store.prewrite(30, insert(K)))
    assert isinstance(error, AlreadyExists)
    assert (error.key, error.existing_start_ts) == (K, 10)
    assert isinstance(store.fails(store.prewrite(30, check_not_exists(K))), AlreadyExists)
    store.write(40, 50, delete(K))
    store.write(52, 53, lock_only(K))
    store.must(store.prewrite(60, insert(K), primary=b"p"))
    store.must(store.prewrite(62, check_not_exists(b"other")))
    assert store.manager.max_ts >= 62


def test_insert_looks_below_records_that_change_nothing(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    store.write(22, 23, lock_only(K))
    store.must(store.rollback(24, K))
    assert isinstance(store.fails(store.prewrite(30, insert(K))), AlreadyExists)


# --- repetition ---------------------------------------------------------------------------------------------------


def test_a_repeated_prewrite_changes_nothing(store: TxnStore) -> None:
    command = store.prewrite(10, put(K, LONG), put(b"b"))
    store.must(command)
    before = store.dump()
    assert store.must(command) == PrewriteResult()
    assert store.dump() == before


@pytest.mark.parametrize("mutation", [put(K), insert(K), lock_only(K)])
def test_repeated_after_the_commit_it_is_a_success_and_no_second_commit(store: TxnStore, mutation: object) -> None:
    command = store.prewrite(10, mutation)  # type: ignore[arg-type]
    store.must(command)
    store.must(store.commit(10, 20, K))
    before = store.dump()
    assert store.must(command) == PrewriteResult()
    assert store.dump() == before
    store.must(store.prewrite(30, put(K), primary=b"p"))
    assert store.must(command) == PrewriteResult(), "also past another transaction's lock"


def test_after_the_rollback_it_is_refused(store: TxnStore) -> None:
    command = store.prewrite(10, put(K))
    store.must(command)
    store.must(store.rollback(10, K))
    error = store.fails(command)
    assert isinstance(error, WriteConflict)
    assert error.reason is ConflictReason.SELF_ROLLED_BACK


def test_after_a_rollback_that_came_first_it_is_refused(store: TxnStore) -> None:
    store.must(store.cleanup(10, K))
    assert isinstance(store.fails(store.prewrite(10, put(K))), WriteConflict)


def test_after_a_rollback_that_was_collapsed_it_is_refused(store: TxnStore) -> None:
    store.must(store.rollback(10, K))
    store.must(store.rollback(20, K))
    assert store.kinds(K) == ["20 ROLLBACK"]
    assert isinstance(store.fails(store.prewrite(10, put(K))), WriteConflict)


def test_below_the_safe_point_it_is_refused(store: TxnStore) -> None:
    """The record of its rollback, or of a conflict, may be gone."""
    store.must(store.cleanup(10, K))
    store.write(12, 13, delete(K))
    store.collect(20)
    assert store.kinds(K) == []
    assert isinstance(store.fails(store.prewrite(10, put(K))), SnapshotTooOld)
    assert isinstance(store.fails(store.pessimistic(10, 30, K)), SnapshotTooOld)


def test_a_transaction_that_began_at_the_safe_point_finds_its_rollback(store: TxnStore) -> None:
    store.must(store.rollback(20, K))
    store.must(store.rollback(10, b"b"))
    store.collect(20)
    assert isinstance(store.fails(store.prewrite(20, put(K))), WriteConflict)
    assert store.kinds(b"b") == []


# --- assertions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [AssertionLevel.FAST, AssertionLevel.STRICT])
def test_assertions(store: TxnStore, level: AssertionLevel) -> None:
    store.write(10, 20, put(b"there"))
    store.write(12, 22, put(b"gone"))
    store.write(24, 25, delete(b"gone"))
    store.write(26, 27, lock_only(b"there"))
    there, not_there = Assertion.EXISTS, Assertion.NOT_EXISTS
    for key, wrong, right in ((b"there", not_there, there), (b"gone", there, not_there), (b"never", there, not_there)):
        error = store.fails(store.prewrite(30, put(key, assertion=wrong), assertion_level=level))
        assert isinstance(error, AssertionFailed)
        assert error.assertion is wrong
        assert error.existing_commit_ts == {b"there": 20, b"gone": 25, b"never": 0}[key]
        store.must(store.prewrite(30, put(key, assertion=right), primary=b"p", assertion_level=level))


def test_assertions_are_off_unless_wanted(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K, assertion=Assertion.EXISTS)))


def test_locked_keys_are_asserted_only_when_strict(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 10, K))
    command = store.prewrite(10, locked_put(K, assertion=Assertion.EXISTS), for_update_ts=10)
    strict = msgspec.structs.replace(command, assertion_level=AssertionLevel.STRICT)
    assert isinstance(store.fails(strict), AssertionFailed)
    store.must(msgspec.structs.replace(command, assertion_level=AssertionLevel.FAST))


# --- pessimistic --------------------------------------------------------------------------------------------------


def test_a_pessimistic_lock_becomes_a_prewritten_one_and_keeps_its_promises(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, K, lock_ttl_ms=20_000, min_commit_ts=16))
    store.must(store.prewrite(10, locked_put(K), for_update_ts=12, lock_ttl_ms=3000))
    lock = store.lock(K)
    assert lock is not None
    assert (lock.kind, lock.ttl_ms, lock.for_update_ts, lock.min_commit_ts) == (LockKind.PUT, 20_000, 15, 16)
    assert store.last is not None
    assert store.last.new_locks == []


def test_a_locked_key_is_not_checked_again(store: TxnStore) -> None:
    """What was committed between start_ts and for_update_ts, the statement has seen; an insert was checked then."""
    store.write(12, 13, put(K))
    store.must(store.pessimistic(10, 15, K))
    action = PessimisticAction.CHECK_LOCK
    store.must(store.prewrite(10, insert(K, action=action), for_update_ts=15))


def test_a_lost_lock_is_as_good_as_there_while_nothing_was_written(store: TxnStore) -> None:
    store.write(1, 5, put(K, b"old"))
    store.must(store.prewrite(10, locked_put(K), for_update_ts=15))
    store.must(store.commit(10, 20, K))
    assert store.kinds(K) == ["20 PUT", "5 PUT"]


@pytest.mark.parametrize("commit_ts", [12, 30])
def test_a_lost_lock_over_something_newer_is_told(store: TxnStore, commit_ts: int) -> None:
    store.write(11, commit_ts, put(K))
    error = store.fails(store.prewrite(10, locked_put(K), for_update_ts=15))
    assert isinstance(error, PessimisticLockNotFound)
    assert (error.reason, error.is_retryable) == (LockMissing.CHANGED, True)
    assert str(error).startswith("PessimisticLockNotFound")


def test_a_lock_that_another_transaction_has_got_is_lost(store: TxnStore) -> None:
    store.must(store.pessimistic(20, 20, K))
    error = store.fails(store.prewrite(10, locked_put(K), for_update_ts=15))
    assert isinstance(error, PessimisticLockNotFound)
    assert error.reason is LockMissing.OTHER_TRANSACTION


def test_a_lock_of_another_statement_than_expected_is_lost(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, K))
    store.fails(store.prewrite(10, locked_put(K, expected_for_update_ts=12), for_update_ts=15))
    store.must(store.prewrite(10, locked_put(K, expected_for_update_ts=15), for_update_ts=15))


def test_a_key_that_was_never_locked_is_checked(store: TxnStore) -> None:
    """TiKV does not: here the update of another transaction would be lost."""
    store.write(20, 30, put(K))
    error = store.fails(store.prewrite(10, put(K), for_update_ts=15))
    assert isinstance(error, PessimisticLockNotFound)
    assert error.reason is LockMissing.NOT_LOCKED_KEY_CONFLICT
    store.must(store.prewrite(11, put(K), for_update_ts=30))


def test_a_key_whose_check_was_put_off_is_checked_from_the_start(store: TxnStore) -> None:
    store.write(12, 13, put(K))
    error = store.fails(store.prewrite(10, put(K, action=PessimisticAction.CHECK_CONSTRAINT), for_update_ts=15))
    assert isinstance(error, WriteConflict)
    assert error.reason is ConflictReason.LAZY_UNIQUENESS_CHECK


def test_newer_rollbacks_of_others_are_no_conflict_its_own_is(store: TxnStore) -> None:
    store.must(store.cleanup(20, K))
    store.must(store.prewrite(10, put(K), for_update_ts=15))
    store.must(store.rollback(10, K))
    store.must(store.cleanup(30, K))
    error = store.fails(store.prewrite(10, put(K), for_update_ts=25))
    assert isinstance(error, WriteConflict)
    assert error.reason is ConflictReason.SELF_ROLLED_BACK


def test_repeated_after_the_commit_of_a_pessimistic_transaction(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, K))
    command = store.prewrite(10, locked_put(K), put(b"b"), for_update_ts=15)
    store.must(command)
    store.must(store.commit(10, 20, K, b"b"))
    before = store.dump()
    assert store.must(command) == PrewriteResult()
    assert store.dump() == before


def test_an_optimistic_prewrite_does_not_take_its_own_pessimistic_lock(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, K))
    error = store.fails(store.prewrite(10, put(K)))
    assert isinstance(error, LockKindMismatch)
    assert error.found_pessimistic


def test_a_lock_record_knows_the_last_change(store: TxnStore) -> None:
    store.write(1, 5, put(K))
    store.must(store.pessimistic(10, 15, K))
    store.must(store.prewrite(10, lock_only(K, action=PessimisticAction.CHECK_LOCK), for_update_ts=15))
    store.must(store.commit(10, 20, K))
    store.write(30, 40, lock_only(K))
    assert [write.last_change for _, write in store.writes(K)] == [LastChange(5, 2), LastChange(5, 1), None]  # type: ignore[arg-type]

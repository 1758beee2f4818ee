"""Locks that are taken before anything is written."""

from __future__ import annotations

import pytest
from tests.transaction.txn_store import LONG, TxnStore, delete, lock_only, locked_put, put

from pytinykv.transaction.errors import (
    AlreadyExists,
    ConflictReason,
    KeyIsLocked,
    LockIfExistsInvalid,
    LockKindMismatch,
    PessimisticLockRolledBack,
    WriteConflict,
)
from pytinykv.transaction.pessimistic import after_waiting
from pytinykv.transaction.records import LockKind
from pytinykv.transaction.results import KeyLocked, PessimisticLockResult

K = b"k"


def keys_of(result: object) -> tuple[KeyLocked, ...]:
    assert isinstance(result, PessimisticLockResult)
    return result.keys


def test_keys_are_locked_and_nothing_is_written(store: TxnStore) -> None:
    assert keys_of(store.must(store.pessimistic(10, 15, b"a", b"b", primary=b"a"))) == (KeyLocked(), KeyLocked())
    lock = store.lock(b"b")
    assert lock is not None
    assert (lock.kind, lock.primary, lock.start_ts, lock.for_update_ts) == (LockKind.PESSIMISTIC, b"a", 10, 15)
    assert len(store.dump()) == 2


def test_another_transactions_lock_has_to_be_waited_for(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, b"b"))
    error = store.fails(store.pessimistic(20, 20, b"a", b"b", b"c"))
    assert isinstance(error, KeyIsLocked)
    assert (error.key, error.lock.start_ts) == (b"b", 10)
    assert store.lock(b"a") is None


def test_what_was_committed_after_the_statement_is_a_conflict_to_be_tried_again(store: TxnStore) -> None:
    store.write(12, 20, put(K))
    error = store.fails(store.pessimistic(10, 15, K))
    assert isinstance(error, WriteConflict)
    assert (error.conflict_commit_ts, error.reason) == (20, ConflictReason.PESSIMISTIC_RETRY)
    store.must(store.pessimistic(10, 20, K))


def test_values_as_of_the_statement(store: TxnStore) -> None:
    store.write(1, 2, put(b"a", b"old"), put(b"b", LONG), put(b"c"))
    store.write(3, 4, delete(b"c"))
    store.write(5, 6, lock_only(b"a"))
    result = store.must(store.pessimistic(10, 15, b"a", b"b", b"c", b"d", return_values=True))
    assert [(key.exists, key.value) for key in keys_of(result)] == [
        (True, b"old"),
        (True, LONG),
        (False, None),
        (False, None),
    ]
    assert store.manager.max_ts == 15


def test_existence(store: TxnStore) -> None:
    store.write(1, 2, put(b"a"))
    result = store.must(store.pessimistic(10, 15, b"a", b"b", check_existence=True))
    assert keys_of(result) == (KeyLocked(exists=True), KeyLocked(exists=False))


def test_should_not_exist(store: TxnStore) -> None:
    store.write(1, 2, put(K))
    error = store.fails(store.pessimistic(10, 15, K, should_not_exist=True))
    assert isinstance(error, AlreadyExists)
    assert error.existing_start_ts == 1
    store.must(store.pessimistic(10, 15, b"other", should_not_exist=True))


def test_only_if_it_exists(store: TxnStore) -> None:
    store.write(1, 2, put(b"a"))
    command = store.pessimistic(10, 15, b"a", b"b", lock_only_if_exists=True, return_values=True)
    assert [key.is_locked for key in keys_of(store.must(command))] == [True, False]
    assert store.lock(b"b") is None
    assert isinstance(store.fails(store.pessimistic(20, 20, K, lock_only_if_exists=True)), LockIfExistsInvalid)


def test_the_same_request_again_gives_the_same_answer(store: TxnStore) -> None:
    store.write(1, 2, put(K, b"old"))
    command = store.pessimistic(10, 15, K, return_values=True)
    first = store.must(command)
    before = store.dump()
    assert store.must(command) == first
    assert store.dump() == before


def test_a_later_statement_renews_the_lock_and_keeps_its_promises(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, K, lock_ttl_ms=500, min_commit_ts=16))
    store.must(store.check(10, K, caller_start_ts=40))
    store.must(store.pessimistic(10, 30, K, lock_ttl_ms=100, min_commit_ts=31))
    lock = store.lock(K)
    assert lock is not None
    assert (lock.for_update_ts, lock.ttl_ms, lock.min_commit_ts) == (30, 500, 41)
    store.must(store.pessimistic(10, 20, K))
    assert store.lock(K) == lock, "an earlier statement's request that comes late changes nothing"
    assert isinstance(store.fails(store.pessimistic(11, 30, K)), KeyIsLocked)


def test_a_prewritten_key_can_t_be_locked_again(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K)))
    error = store.fails(store.pessimistic(10, 15, K))
    assert isinstance(error, LockKindMismatch)
    assert not error.found_pessimistic


def test_a_transaction_that_was_rolled_back_locks_no_more(store: TxnStore) -> None:
    store.must(store.cleanup(10, K))
    assert isinstance(store.fails(store.pessimistic(10, 15, K)), PessimisticLockRolledBack)
    store.write(12, 14, put(K))
    assert isinstance(store.fails(store.pessimistic(10, 15, K)), PessimisticLockRolledBack)


def test_a_transaction_that_is_committed_locks_no_more(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    store.write(21, 22, put(K))
    for forced in (False, True):
        error = store.fails(store.pessimistic(10, 15, K, allow_lock_with_conflict=forced))
        assert isinstance(error, WriteConflict)


def test_taking_locks_back(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, b"a", b"b"))
    store.must(store.pessimistic(10, 25, b"later", primary=b"a"))
    store.must(store.prewrite(10, locked_put(b"b"), primary=b"a", for_update_ts=15))
    store.must(store.pessimistic(11, 15, b"other"))
    store.must(store.pessimistic_rollback(10, 20, b"a", b"b", b"later", b"other", b"never", b"a"))
    assert [store.lock(key) is None for key in (b"a", b"b", b"later", b"other")] == [True, False, False, False]
    assert store.last is not None
    assert [lock.key for lock in store.last.released] == [b"a"]
    assert store.kinds(b"a") == []
    store.must(store.pessimistic(10, 30, b"a"))


# --- despite a conflict -------------------------------------------------------------------------------------------


def test_a_key_may_be_locked_despite_a_conflict_and_tells_what_is_there(store: TxnStore) -> None:
    store.write(12, 20, put(K, b"newer"))
    command = store.pessimistic(10, 15, K, allow_lock_with_conflict=True)
    (key,) = keys_of(store.must(command))
    assert key == KeyLocked(exists=True, value=b"newer", conflict_ts=20)  # type: ignore[arg-type]
    lock = store.lock(K)
    assert lock is not None
    assert (lock.for_update_ts, lock.is_locked_with_conflict) == (20, True)
    assert keys_of(store.must(command)) == (key,), "its answer was lost: the same again"
    store.must(store.prewrite(10, locked_put(K, expected_for_update_ts=20), for_update_ts=15))


def test_despite_a_conflict_a_demand_for_absence_is_a_conflict(store: TxnStore) -> None:
    """The statement could not have seen the value, so it is to look again and not to say that it exists."""
    store.write(12, 20, put(K))
    command = store.pessimistic(10, 15, K, allow_lock_with_conflict=True, should_not_exist=True)
    assert isinstance(store.fails(command), WriteConflict)


@pytest.mark.parametrize("what", [delete(K), lock_only(K)])
def test_despite_a_conflict_over_nothing(store: TxnStore, what: object) -> None:
    store.write(12, 20, what)  # type: ignore[arg-type]
    (key,) = keys_of(store.must(store.pessimistic(10, 15, K, allow_lock_with_conflict=True)))
    assert key == KeyLocked(exists=False, value=None, conflict_ts=20)  # type: ignore[arg-type]
    command = store.pessimistic(
        10, 15, b"k2", allow_lock_with_conflict=True, lock_only_if_exists=True, return_values=True
    )
    store.write(13, 21, delete(b"k2"))
    assert isinstance(store.fails(command), WriteConflict)


def test_waiting_prolongs_the_time_to_live(store: TxnStore) -> None:
    command = store.pessimistic(10, 15, K, lock_ttl_ms=100)
    assert after_waiting(command, 250).lock_ttl_ms == 350
    assert after_waiting(command, -1).lock_ttl_ms == 100

"""What stores answer about keys, and the errors that callers get for it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pytinykv.client import (
    DeadlockError,
    KeyExistsError,
    SnapshotTooOldError,
    TransactionAbortedError,
    TransactionError,
    TransactionRefusedError,
    WriteConflictError,
)
from pytinykv.client.txn.key_errors import (
    CommitTsExpiredError,
    KeysLockedError,
    TxnNotFoundError,
    error_of,
    what_was_met,
)
from pytinykv.client.txn.records import ForeignLock
from pytinykv.wire.pb import deadlock_pb2, kvrpcpb_pb2

CONFLICT = kvrpcpb_pb2.WriteConflict(start_ts=10, conflict_ts=12, conflict_commit_ts=14, key=b"k")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ({"conflict": CONFLICT}, WriteConflictError, "has committed b'k' at 14, after this one began at 10"),
        (
            {"conflict": kvrpcpb_pb2.WriteConflict(start_ts=10, reason=kvrpcpb_pb2.WriteConflict.SelfRolledBack)},
            TransactionAbortedError,
            "transaction 10 was rolled back by others",
        ),
        ({"already_exist": kvrpcpb_pb2.AlreadyExist(key=b"k")}, KeyExistsError, "b'k' exists"),
        (
            {"assertion_failed": kvrpcpb_pb2.AssertionFailed(key=b"k", assertion=kvrpcpb_pb2.NotExist)},
            KeyExistsError,
            "b'k' exists",
        ),
        ({"commit_ts_expired": kvrpcpb_pb2.CommitTsExpired(min_commit_ts=5)}, CommitTsExpiredError, "have to be 5"),
        ({"txn_not_found": kvrpcpb_pb2.TxnNotFound(start_ts=10)}, TxnNotFoundError, "no transaction 10"),
        ({"txn_lock_not_found": kvrpcpb_pb2.TxnLockNotFound(key=b"k")}, TransactionAbortedError, "none on b'k'"),
        ({"retryable": "PessimisticLockNotFound"}, TransactionAbortedError, "PessimisticLockNotFound"),
        ({"abort": "snapshot too old: safe point 30"}, SnapshotTooOldError, "safe point 30; begin a new"),
        ({"abort": "plain boundaries"}, TransactionRefusedError, "asked: plain boundaries"),
        ({}, TransactionRefusedError, "an empty error"),
    ],
)
def test_errors_of_stores(answer: dict[str, Any], kind: type[TransactionError], words: str) -> None:
    error = error_of(kvrpcpb_pb2.KeyError(**answer), "asked")
    assert type(error) is kind
    assert words in str(error)


def test_a_deadlock_names_its_cycle() -> None:
    chain = [
        deadlock_pb2.WaitForEntry(txn=10, wait_for_txn=20, key=b"a"),
        deadlock_pb2.WaitForEntry(txn=20, wait_for_txn=10, key=b"b"),
    ]
    error = error_of(
        kvrpcpb_pb2.KeyError(deadlock=kvrpcpb_pb2.Deadlock(lock_ts=10, lock_key=b"b", wait_chain=chain)), "asked"
    )
    assert "10 waits for 20 to release b'a', 20 waits for 10 to release b'b'" in str(error)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert isinstance(again, DeadlockError)
    assert again.cycle == ((10, 20, b"a"), (20, 10, b"b"))
    assert again.retryable


def test_an_error_keeps_what_it_names_when_it_is_pickled() -> None:
    error = error_of(kvrpcpb_pb2.KeyError(conflict=CONFLICT), "asked")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert isinstance(again, WriteConflictError)
    assert (again.key, again.conflict_ts, again.conflict_commit_ts) == (b"k", 12, 14)


def test_locks_are_told_apart_from_what_ends_the_call() -> None:
    lock = kvrpcpb_pb2.LockInfo(key=b"a", primary_lock=b"p", lock_version=7, lock_ttl=3000, txn_size=2)
    locks, error = what_was_met([kvrpcpb_pb2.KeyError(locked=lock), kvrpcpb_pb2.KeyError(conflict=CONFLICT)], "asked")
    assert locks == [ForeignLock(b"a", b"p", 7, 3000, 2)]
    assert isinstance(error, WriteConflictError)
    assert isinstance(error_of(kvrpcpb_pb2.KeyError(locked=lock), "asked"), KeysLockedError)

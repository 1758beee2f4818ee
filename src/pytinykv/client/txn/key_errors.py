"""What stores answer about keys: locks in the way, conflicts, refusals; turned into our own errors.

A lock in the way is no error yet: `KeysLockedError` goes to the resolver and never leaves this package. Everything else ends
the transaction. `KeyError` (of the protocol) has one field set, which says what happened.

| field                                   | error                                                        |
| --------------------------------------- | ------------------------------------------------------------ |
| locked                                  | KeysLockedError                                              |
| conflict                                | WriteConflictError; TransactionAbortedError if it was rolled back |
| already_exist, assertion_failed(NotExist) | KeyExistsError                                             |
| deadlock                                | DeadlockError                                                |
| commit_ts_expired                       | CommitTsExpiredError (internal: commit later)                |
| txn_not_found                           | TxnNotFoundError (internal: the resolver asks again)         |
| txn_lock_not_found, retryable           | TransactionAbortedError                                      |
| abort                                   | SnapshotTooOldError if it says so, else TransactionRefusedError |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytinykv.client.errors import (
    DeadlockError,
    KeyExistsError,
    SnapshotTooOldError,
    TransactionAbortedError,
    TransactionError,
    TransactionRefusedError,
    WriteConflictError,
)
from pytinykv.client.txn.records import Lock
from pytinykv.wire.keys import describe_key
from pytinykv.wire.pb import kvrpcpb_pb2

TOO_OLD = "snapshot too old"
"""How a store's refusal of a read below the safe point begins."""


class KeysLockedError(TransactionError):
    """Locks of other transactions stand in the way. For the resolver; callers never see it."""

    def __init__(self, message: str, locks: Sequence[Lock] = ()) -> None:
        super().__init__(message)
        self.locks = locks


class CommitTsExpiredError(TransactionError):
    """A reader has pushed the commit timestamp: commit again with a later one. Callers never see it."""


class TxnNotFoundError(TransactionError):
    """The primary has neither a lock nor a record of the transaction. For the resolver; callers never see it."""


class PrimaryMismatchError(TransactionError):
    """The key that a lock names as its primary is none. For the resolver; callers never see it."""


def locked(locks: Iterable[Lock]) -> KeysLockedError:
    """Return the error for locks in the way."""
    locks = list(locks)
    return KeysLockedError(f"in the way: {locks[0]}" + (f" and {len(locks) - 1} more" if locks[1:] else ""), locks)


def error_of(error: kvrpcpb_pb2.KeyError, what: str) -> TransactionError:
    """Return our error for a store's; `what` says what was asked of it."""
    match _field_of(error):
        case "locked":
            return locked([Lock.from_pb(error.locked)])
        case "conflict":
            return _conflict(error.conflict)
        case "already_exist":
            return _exists(error.already_exist.key)
        case "assertion_failed" if error.assertion_failed.assertion == kvrpcpb_pb2.NotExist:
            return _exists(error.assertion_failed.key)
        case "deadlock":
            return _deadlock(error.deadlock)
        case "commit_ts_expired":
            return CommitTsExpiredError(f"{what}: commit timestamps have to be {error.commit_ts_expired.min_commit_ts}")
        case "txn_not_found":
            return TxnNotFoundError(f"{what}: no transaction {error.txn_not_found.start_ts} there")
        case "primary_mismatch":
            return PrimaryMismatchError(f"{what}: that key is not the transaction's primary")
        case "txn_lock_not_found":
            return _lock_lost(what, describe_key(error.txn_lock_not_found.key))
        case "retryable":
            return _lock_lost(what, error.retryable)
        case "abort" if error.abort.startswith(TOO_OLD):
            return SnapshotTooOldError(f"{what}: {error.abort}; begin a new transaction or snapshot")
        case "abort":
            return TransactionRefusedError(f"{what}: {error.abort}")
    return TransactionRefusedError(f"{what}: the store answered {str(error).strip() or 'an empty error'}")


def _field_of(error: kvrpcpb_pb2.KeyError) -> str:
    """Return the field that says what happened, ahead of mere additions."""
    names = [field.name for field, _ in error.ListFields() if field.name != "debug_info"]
    return names[0] if names else ""


def _conflict(conflict: kvrpcpb_pb2.WriteConflict) -> TransactionError:
    if conflict.reason == kvrpcpb_pb2.WriteConflict.SelfRolledBack:
        return TransactionAbortedError(
            f"transaction {conflict.start_ts} was rolled back by others before it wrote {describe_key(conflict.key)}; "
            "it took longer than its locks live. Run it again"
        )
    return WriteConflictError(
        f"another transaction has committed {describe_key(conflict.key)} at {conflict.conflict_commit_ts}, after this one "
        f"began at {conflict.start_ts}; nothing of this one was committed. Run it again from a new snapshot (db.run does)",
        key=conflict.key,
        conflict_ts=conflict.conflict_ts,
        conflict_commit_ts=conflict.conflict_commit_ts,
    )


def _exists(key: bytes) -> KeyExistsError:
    return KeyExistsError(f"{describe_key(key)} exists: insert needs a key that does not; use put to overwrite", key=key)


def _deadlock(deadlock: kvrpcpb_pb2.Deadlock) -> DeadlockError:
    cycle = tuple((entry.txn, entry.wait_for_txn, entry.key) for entry in deadlock.wait_chain)
    steps = ", ".join(f"{txn} waits for {other} to release {describe_key(key)}" for txn, other, key in cycle)
    return DeadlockError(
        f"deadlock at {describe_key(deadlock.lock_key)}, locked by transaction {deadlock.lock_ts}: "
        f"{steps or 'the store did not name the circle'}. Roll back, and run it again",
        key=deadlock.lock_key,
        cycle=cycle,
    )


def _lock_lost(what: str, detail: str) -> TransactionAbortedError:
    return TransactionAbortedError(
        f"{what}: the lock is gone ({detail}); others have removed it, because its owner was silent for longer than it "
        "lives. Nothing was committed; run the transaction again"
    )

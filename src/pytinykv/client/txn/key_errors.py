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

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytinykv.client.errors import (
    KeyExistsError,
    SnapshotTooOldError,
    TransactionAbortedError,
    TransactionError,
    TransactionRefusedError,
)
from pytinykv.client.txn import refusals
from pytinykv.client.txn.records import ForeignLock
from pytinykv.wire.keys import describe_key
from pytinykv.wire.pb import kvrpcpb_pb2

TOO_OLD = "snapshot too old"
"""How a store's refusal of a read below the safe point begins."""


PLAIN_BOUNDS = "was split at raw keys before it saw a transaction"
"""How stores say so; it is in every text about it."""


class KeysLockedError(TransactionError):
    """Locks of other transactions stand in the way. For the resolver; callers never see it."""

    def __init__(self, message: str, locks: Sequence[ForeignLock] = ()) -> None:
        super().__init__(message)
        self.locks = locks


class CommitTsExpiredError(TransactionError):
    """A reader has pushed the commit timestamp: commit again with a later one. Callers never see it."""


class PlainBoundsError(TransactionRefusedError):
    """The region has bounds that transactions can't live with: it never had any data of theirs. Callers see its base."""


class TxnNotFoundError(TransactionError):
    """The primary has neither a lock nor a record of the transaction. For the resolver; callers never see it."""


class PrimaryMismatchError(TransactionError):
    """The key that a lock names as its primary is none. For the resolver; callers never see it."""


def locked(locks: Iterable[ForeignLock]) -> KeysLockedError:
    """Return the error for locks in the way."""
    locks = list(locks)
    return KeysLockedError(f"in the way: {locks[0]}" + (f" and {len(locks) - 1} more" if locks[1:] else ""), locks)


def error_of(error: Any, what: str) -> TransactionError:
    """Return our error for a store's `kvrpcpb.KeyError`; `what` says what was asked of it."""
    field = _field_of(error)
    make = _MAKERS.get(field)
    if make is None:
        return TransactionRefusedError(f"{what}: the store answered {str(error).strip() or 'an empty error'}")
    return make(getattr(error, field), what)


def _field_of(error: Any) -> str:
    """Return the field that says what happened, ahead of mere additions."""
    names = [field.name for field, _ in error.ListFields() if field.name != "debug_info"]
    return names[0] if names else ""


def _locked(info: kvrpcpb_pb2.LockInfo, _: str) -> TransactionError:
    return locked([ForeignLock.from_pb(info)])


def _commit_ts_expired(expired: kvrpcpb_pb2.CommitTsExpired, what: str) -> TransactionError:
    return CommitTsExpiredError(f"{what}: commit timestamps have to be {expired.min_commit_ts} at least")


def _txn_not_found(missing: kvrpcpb_pb2.TxnNotFound, what: str) -> TransactionError:
    return TxnNotFoundError(f"{what}: no transaction {missing.start_ts} there")


def _primary_mismatch(_: kvrpcpb_pb2.PrimaryMismatch, what: str) -> TransactionError:
    return PrimaryMismatchError(f"{what}: that key is not the transaction's primary")


def _assertion_failed(failed: kvrpcpb_pb2.AssertionFailed, what: str) -> TransactionError:
    if failed.assertion == kvrpcpb_pb2.NotExist:
        return _exists(failed, what)
    return TransactionRefusedError(f"{what}: {describe_key(failed.key)} does not exist")


def _aborted(text: str, what: str) -> TransactionError:
    if text.startswith(TOO_OLD):
        advice = "" if "begin" in text else "; begin a new transaction or snapshot"  # our stores give it themselves
        return SnapshotTooOldError(f"{what}: {text}{advice}")
    if PLAIN_BOUNDS in text:
        return PlainBoundsError(f"{what}: {text}")
    return TransactionRefusedError(f"{what}: {text}")


def _conflict(conflict: kvrpcpb_pb2.WriteConflict, _: str) -> TransactionError:
    if conflict.reason == kvrpcpb_pb2.WriteConflict.SelfRolledBack:
        return refusals.rolled_back(conflict.key, conflict.start_ts)
    return refusals.write_conflict(conflict.key, conflict.start_ts, conflict.conflict_ts, conflict.conflict_commit_ts)


def _exists(found: Any, _: str) -> KeyExistsError:
    return refusals.key_exists(found.key)


def _deadlock(deadlock: kvrpcpb_pb2.Deadlock, _: str) -> TransactionError:
    cycle = tuple((entry.txn, entry.wait_for_txn, entry.key) for entry in deadlock.wait_chain)
    return refusals.deadlock(deadlock.lock_key, deadlock.lock_ts, cycle)


def _lock_missing(missing: kvrpcpb_pb2.TxnLockNotFound, what: str) -> TransactionError:
    return _lock_lost(f"none on {describe_key(missing.key)}", what)


def _lock_lost(detail: str, what: str) -> TransactionAbortedError:
    return TransactionAbortedError(
        f"{what}: the lock is gone ({detail}); others have removed it, because its owner was silent for longer than it "
        "lives. Nothing was committed; run the transaction again"
    )


_MAKERS: dict[str, Callable[[Any, str], TransactionError]] = {
    "locked": _locked,
    "conflict": _conflict,
    "already_exist": _exists,
    "assertion_failed": _assertion_failed,
    "deadlock": _deadlock,
    "commit_ts_expired": _commit_ts_expired,
    "txn_not_found": _txn_not_found,
    "primary_mismatch": _primary_mismatch,
    "txn_lock_not_found": _lock_missing,
    "retryable": _lock_lost,
    "abort": _aborted,
}


def what_was_met(errors: Any, what: str) -> tuple[list[ForeignLock], TransactionError | None]:
    """Return the locks among key errors, and the first of the other errors."""
    locks: list[ForeignLock] = []
    first: TransactionError | None = None
    for each in errors:
        error = error_of(each, what)
        if isinstance(error, KeysLockedError):
            locks += error.locks
        elif first is None:
            first = error
    return locks, first

"""From what an evaluation refuses, and from what the disk does, to the errors that callers of a client know.

The errors and their words are those of a cluster's client (`client.txn.key_errors`), which has them from a store's answer.
"""

from __future__ import annotations

from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    ClientForkedError,
    DatabaseCorruptError,
    DatabaseError,
    DatabaseFullError,
    DatabaseInUseError,
    DatabaseMismatchError,
    LockTimeoutError,
    SnapshotTooOldError,
    TransactionAbortedError,
    TransactionError,
    TransactionRefusedError,
    UndeterminedError,
)
from pytinykv.client.txn import refusals
from pytinykv.storage import (
    CorruptionError,
    DataDirectoryInUseError,
    DataDirectoryMismatchError,
    DiskFullError,
    EngineClosedError,
    EngineError,
    EngineForkedError,
)
from pytinykv.transaction.errors import (
    AlreadyExists,
    ConflictReason,
    Deadlock,
    KeyIsLocked,
    PessimisticLockNotFound,
    PessimisticLockRolledBack,
    SnapshotTooOld,
    TxnError,
    WriteConflict,
)
from pytinykv.wire.keys import describe_key

CLOSED = "the database is closed; open it again"


def error_of(error: TxnError) -> TransactionError:
    """Return the client's error for one of an evaluation."""
    match error:
        case WriteConflict():
            if error.reason is ConflictReason.SELF_ROLLED_BACK:
                return refusals.rolled_back(error.key, error.start_ts)
            return refusals.write_conflict(error.key, error.start_ts, error.conflict_start_ts, error.conflict_commit_ts)
        case AlreadyExists():
            return refusals.key_exists(error.key)
        case Deadlock():
            chain = tuple((wait.start_ts, wait.lock_ts, wait.key) for wait in error.wait_chain)
            return refusals.deadlock(error.key, error.lock_ts, chain)
        case KeyIsLocked():
            return LockTimeoutError(
                f"the lock of transaction {error.lock.start_ts} on {describe_key(error.key)} stood in the way until the "
                "deadline; its transaction is open. None of the keys is locked now; try again, or give it more time",
                key=error.key,
                holder_ts=error.lock.start_ts,
            )
        case SnapshotTooOld():
            return snapshot_too_old(error.start_ts, error.safe_point)
        case PessimisticLockNotFound() | PessimisticLockRolledBack():
            return TransactionAbortedError(
                f"transaction {error.start_ts} has no lock on {describe_key(error.key)} any more. Nothing was committed; "
                "run it again"
            )
        case _:
            return TransactionRefusedError(f"{describe_key(error.key)}: {error}")


def snapshot_too_old(ts: int, safe_point: int) -> SnapshotTooOldError:
    """Return the error of a read below the safe point."""
    return SnapshotTooOldError(
        f"snapshot too old: {ts} lies before the safe point {safe_point}, up to which old versions are deleted; begin a new "
        "transaction or snapshot, or open the database with a longer history_s"
    )


def engine_error(error: EngineError, *, may_have_written: bool = False) -> ClientError:
    """Return the client's error for one of the disk. `may_have_written`: of the write that it happened to."""
    if isinstance(error, EngineClosedError):
        return ClientClosedError(CLOSED)
    if may_have_written:
        return UndeterminedError(
            f"whether the commit is durable is unknown: {error}. Close the database, and open it again when the disk works"
        )
    return _KINDS.get(type(error), DatabaseError)(
        f"nothing was changed: {error}. The database takes no writes any more; close it, and open it again when the disk "
        "works"
    )


def opening_error(error: EngineError) -> ClientError:
    """Return the client's error for a database that can't be opened."""
    if isinstance(error, EngineForkedError):
        return ClientForkedError(str(error))
    if isinstance(error, DataDirectoryInUseError):
        return DatabaseInUseError(str(error), holder_pid=error.holder_pid)
    return _KINDS.get(type(error), DatabaseError)(str(error))


_KINDS: dict[type[EngineError], type[DatabaseError]] = {
    DiskFullError: DatabaseFullError,
    CorruptionError: DatabaseCorruptError,
    DataDirectoryMismatchError: DatabaseMismatchError,
}

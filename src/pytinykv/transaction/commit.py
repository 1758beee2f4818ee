"""Commit: put a commit record in the place of each lock (Percolator, 2.2, figure 6, lines 49 to 57).

The transaction is committed from the moment at which its primary is; the other keys only follow. So a commit comes once for
the primary, and any number of times for the others, from its client or from one that resolves its locks.

Invariants
----------
1. Repeated, it is a success and changes nothing. After a rollback it is refused, also if the rollback's record was collapsed:
   without a lock there is nothing to commit.
2. Nothing is committed below the lock's `min_commit_ts`: readers have been promised so.
3. All keys or none.
"""

from __future__ import annotations

from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import Commit
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import CommitTsExpired, TxnErrorRaised, TxnLockNotFound
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import WRITE_OF_LOCK, Lock, Write
from pytinykv.transaction.results import CommitResult, Evaluation
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import Timestamp


def commit(reader: MvccReader, command: Commit, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a Commit."""
    changes = TxnChanges(manager)
    commit_ts = command.commit_ts
    for key in command.keys:
        before = commit_key(reader, changes, key, command.start_ts, command.commit_ts)
        if before is not None:
            commit_ts = before
    return changes.finish(CommitResult(commit_ts))


def commit_key(
    reader: MvccReader, changes: TxnChanges, key: bytes, start_ts: Timestamp, commit_ts: Timestamp
) -> Timestamp | None:
    """Commit one key; return when it was committed if that was before, else None.

    Raises:
        TxnErrorRaised: TxnLockNotFound, CommitTsExpired.
    """
    encoded = encode_bytes(key)
    lock = reader.load_lock(encoded)
    if lock is None or lock.start_ts != start_ts:
        record = reader.commit_record(encoded, start_ts)
        if record.is_committed:
            return record.commit_ts
        raise TxnErrorRaised(TxnLockNotFound(key=key, start_ts=start_ts, commit_ts=commit_ts))
    if lock.is_pessimistic:
        # Not prewritten, so the transaction does not write this key: the lock is left from a request that came late, or
        # whose rollback got lost. Take it away as that would have.
        changes.unlock(key, encoded, start_ts)
        return None
    if commit_ts < lock.min_commit_ts:
        raise TxnErrorRaised(
            CommitTsExpired(key=key, start_ts=start_ts, commit_ts=commit_ts, min_commit_ts=lock.min_commit_ts)
        )
    changes.put_write(encoded, commit_ts, _record_of(lock, commit_ts))
    changes.unlock(key, encoded, start_ts, commit_ts)
    return None


def _record_of(lock: Lock, commit_ts: Timestamp) -> Write:
    """Return what stands in `write` once a lock is committed."""
    return Write(
        kind=WRITE_OF_LOCK[lock.kind],
        start_ts=lock.start_ts,
        short_value=lock.short_value,
        # The record of a protected rollback that this one would overwrite is kept inside of it.
        has_overlapped_rollback=commit_ts in lock.rollback_ts,
        last_change=lock.last_change,
        source=lock.source,
    )

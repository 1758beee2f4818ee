"""Rollback: take a transaction's locks away, and see to it that it never writes these keys later on.

    lock there               lock and value go, a rollback record stays at start_ts
    no lock, no record       a rollback record: the prewrite may be on its way, and must not find the door open
    rolled back before       nothing
    committed before         AlreadyCommitted

Rollback records pile up on a key that is fought over, so a new one replaces an older one below it (*collapses* it),
unless that is protected. A record above refuses an optimistic prewrite as well as the transaction's own. It does not
refuse a pessimistic one, whose check is the lock; hence the protection where a pessimistic transaction's fate is decided,
its primary.
"""

from __future__ import annotations

from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import BatchRollback, Cleanup
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import AlreadyCommitted, KeyIsLocked, TxnErrorRaised
from pytinykv.transaction.reader import CommitRecord, MvccReader
from pytinykv.transaction.records import NO_TS, Lock
from pytinykv.transaction.results import DONE, CleanupResult, Evaluation
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import Timestamp


def batch_rollback(reader: MvccReader, command: BatchRollback, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a BatchRollback: all keys or, if one is committed, none."""
    changes = TxnChanges(manager)
    manager.note_read(command.start_ts)
    for key in dict.fromkeys(command.keys):
        roll_back_key(reader, changes, key, command.start_ts, protected=False)
    return changes.finish(DONE)


def cleanup(reader: MvccReader, command: Cleanup, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a Cleanup."""
    changes = TxnChanges(manager)
    # No commit timestamp may be chosen that puts a commit record in the place of this rollback.
    manager.note_read(command.start_ts)
    lock = reader.load_lock(encode_bytes(command.key))
    is_own = lock is not None and lock.start_ts == command.start_ts
    if lock is not None and is_own and command.current_ts != NO_TS and not lock.is_expired(command.current_ts):
        raise TxnErrorRaised(KeyIsLocked(key=command.key, lock=lock))
    try:
        roll_back_key(reader, changes, command.key, command.start_ts, protected=True)
    except TxnErrorRaised as raised:
        if isinstance(raised.error, AlreadyCommitted):
            return changes.finish(CleanupResult(raised.error.commit_ts))
        raise
    return changes.finish(CleanupResult())


def roll_back_key(reader: MvccReader, changes: TxnChanges, key: bytes, start_ts: Timestamp, *, protected: bool) -> None:
    """Roll a transaction back at one key. `protected`: its record must stay until garbage collection.

    Raises:
        TxnErrorRaised: AlreadyCommitted.
    """
    encoded = encode_bytes(key)
    lock = reader.load_lock(encoded)
    if lock is not None and lock.start_ts == start_ts:
        changes.roll_back(reader, key, encoded, lock, collapse=not protected)
        return
    record = reader.commit_record(encoded, start_ts)
    if record.is_committed:
        raise TxnErrorRaised(AlreadyCommitted(key=key, start_ts=start_ts, commit_ts=record.commit_ts))
    if not record.is_rolled_back:
        roll_back_missing(reader, changes, key, encoded, start_ts, record, other=lock, protected=protected)


def roll_back_missing(
    reader: MvccReader,
    changes: TxnChanges,
    key: bytes,
    encoded: bytes,
    start_ts: Timestamp,
    record: CommitRecord,
    *,
    other: Lock | None,
    protected: bool,
) -> None:
    """Leave a rollback record of a transaction that has neither lock nor record; `other` is a lock of another one."""
    if not protected:
        changes.collapse_rollback(reader, encoded, start_ts)
    if other is not None and record.overlapped is None:
        changes.note_rollback_in_lock(key, encoded, other, start_ts)
    changes.put_rollback(encoded, start_ts, record, protected=protected)

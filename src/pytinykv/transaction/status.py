"""Asking what became of a transaction: CheckTxnStatus at its primary, CheckSecondaryLocks for async commit, and heartbeats.

    the primary has            and then                                           answer
    a lock, alive              its min_commit_ts is pushed above the caller       alive
    a lock, expired            rolled back                                        rolled back
    a lock of async commit     nothing: the secondaries decide                    alive, with the secondaries
    a commit record            nothing                                            committed
    a rollback record          nothing                                            rolled back
    nothing                    as `rollback_if_not_exist` says                    rolled back, or TxnNotFound

A pessimistic lock on the primary says less: the transaction has not begun to commit, and may yet choose another primary
(if the statement that locked first is taken back). So one who was stopped by another pessimistic lock of it
(`resolving_pessimistic_lock`) gets it out of the way when it has expired and writes no rollback record, from which the
transaction could not recover.
"""

from __future__ import annotations

import msgspec

from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import CheckSecondaryLocks, CheckTxnStatus, TxnHeartBeat
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import PrimaryMismatch, TxnErrorRaised, TxnNotFound
from pytinykv.transaction.reader import CommitRecord, MvccReader
from pytinykv.transaction.records import NO_TS, Lock
from pytinykv.transaction.results import (
    Action,
    Evaluation,
    HeartBeatResult,
    LockInfo,
    SecondaryLocks,
    TxnStatus,
)
from pytinykv.transaction.rollback import roll_back_missing
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp


def check_txn_status(reader: MvccReader, command: CheckTxnStatus, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a CheckTxnStatus."""
    # What is decided here is decided for readers up to these timestamps; none may be chosen for a commit any more.
    for timestamp in (command.lock_ts, command.current_ts, command.caller_start_ts):
        manager.note_read(timestamp)
    changes = TxnChanges(manager)
    lock = reader.load_lock(encode_bytes(command.primary))
    if lock is not None and lock.start_ts == command.lock_ts:
        return changes.finish(_status_of_lock(reader, changes, command, lock))
    return changes.finish(_status_without_lock(reader, changes, command, lock))


def _status_of_lock(reader: MvccReader, changes: TxnChanges, command: CheckTxnStatus, lock: Lock) -> TxnStatus:
    """Find the status of a transaction that has a lock on the key."""
    key, encoded = command.primary, encode_bytes(command.primary)
    if command.verify_is_primary and key != lock.primary:
        if command.resolving_pessimistic_lock or not lock.is_pessimistic:
            raise TxnErrorRaised(PrimaryMismatch(key=key, start_ts=command.lock_ts, lock=lock))
        # The caller has met a prewritten lock that names this key, so the primary does not change any more; this lock is
        # older than that.
        status = _status_without_lock(reader, changes, command, None)
        changes.unlock(key, encoded, lock.start_ts)
        return status
    if lock.use_async_commit and not command.force_sync_commit:
        return TxnStatus(lock=LockInfo(key, lock))
    if lock.is_pessimistic and lock.is_locked_with_conflict:
        # Given to a request that came late, perhaps: if the transaction is decided, that counts.
        decided = _decided(reader.commit_record(encoded, lock.start_ts))
        if decided is not None:
            changes.unlock(key, encoded, lock.start_ts)
            return decided
    if lock.is_expired(command.current_ts):
        if lock.is_pessimistic and command.resolving_pessimistic_lock:
            changes.unlock(key, encoded, lock.start_ts)
            return TxnStatus(Action.TTL_EXPIRE_PESSIMISTIC_ROLLBACK)
        changes.roll_back(reader, key, encoded, lock, collapse=True)
        return TxnStatus(Action.TTL_EXPIRE_ROLLBACK)
    return _push_min_commit_ts(changes, command, lock)


def _push_min_commit_ts(changes: TxnChanges, command: CheckTxnStatus, lock: Lock) -> TxnStatus:
    """Make sure that a living transaction commits above its caller, which then may read past its locks."""
    key, caller = command.primary, command.caller_start_ts
    # A lock without min_commit_ts comes from a client that does not know it and could not commit above.
    if lock.min_commit_ts != NO_TS and lock.min_commit_ts <= caller < MAX_TIMESTAMP:
        pushed = Timestamp(max(caller + 1, command.current_ts))
        lock = msgspec.structs.replace(lock, min_commit_ts=pushed)
        changes.put_lock(key, encode_bytes(key), lock, is_new=False)
    is_passed = caller == MAX_TIMESTAMP or NO_TS < caller < lock.min_commit_ts
    return TxnStatus(Action.MIN_COMMIT_TS_PUSHED if is_passed else Action.NONE, lock=LockInfo(key, lock))


def _status_without_lock(
    reader: MvccReader, changes: TxnChanges, command: CheckTxnStatus, other: Lock | None
) -> TxnStatus:
    """Find the status of a transaction that has no lock on the key; `other` is one of another transaction."""
    key, encoded, start_ts = command.primary, encode_bytes(command.primary), command.lock_ts
    record = reader.commit_record(encoded, start_ts)
    decided = _decided(record)
    if decided is not None:
        return decided
    if not command.rollback_if_not_exist:
        raise TxnErrorRaised(TxnNotFound(key=key, start_ts=start_ts))
    if command.resolving_pessimistic_lock:
        return TxnStatus(Action.LOCK_NOT_EXIST_DO_NOTHING)
    roll_back_missing(reader, changes, key, encoded, start_ts, record, other=other, protected=True)
    return TxnStatus(Action.LOCK_NOT_EXIST_ROLLBACK)


def _decided(record: CommitRecord) -> TxnStatus | None:
    """Return the status that a record tells, None if it tells none."""
    if record.is_committed:
        return TxnStatus(commit_ts=record.commit_ts)
    return TxnStatus() if record.is_rolled_back else None


def heart_beat(reader: MvccReader, command: TxnHeartBeat, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a TxnHeartBeat."""
    changes = TxnChanges(manager)
    key, encoded = command.primary, encode_bytes(command.primary)
    lock = reader.load_lock(encoded)
    if lock is None or lock.start_ts != command.start_ts:
        raise TxnErrorRaised(TxnNotFound(key=key, start_ts=command.start_ts))
    if lock.ttl_ms < command.advise_ttl_ms:
        lock = msgspec.structs.replace(lock, ttl_ms=command.advise_ttl_ms)
        changes.put_lock(key, encoded, lock, is_new=False)
    return changes.finish(HeartBeatResult(lock.ttl_ms))


def check_secondary_locks(reader: MvccReader, command: CheckSecondaryLocks, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a CheckSecondaryLocks.

    A transaction with async commit is committed if and only if all its locks were there at one time. So the first key without
    one decides: committed, if there is a commit record; otherwise it is rolled back there, for good.
    """
    manager.note_read(command.start_ts)
    changes = TxnChanges(manager)
    locks: list[LockInfo] = []
    for key in dict.fromkeys(command.keys):
        encoded = encode_bytes(key)
        lock = reader.load_lock(encoded)
        own = lock if lock is not None and lock.start_ts == command.start_ts else None
        if own is not None and not own.is_pessimistic:
            locks.append(LockInfo(key, own))
            continue
        record = reader.commit_record(encoded, command.start_ts)
        if own is not None:
            changes.unlock(key, encoded, command.start_ts)
        if record.is_committed:
            return changes.finish(SecondaryLocks(commit_ts=record.commit_ts))
        if not record.is_rolled_back:
            # Protected: a pessimistic prewrite that comes late is not refused by whatever record is above.
            other = lock if own is None else None
            roll_back_missing(reader, changes, key, encoded, command.start_ts, record, other=other, protected=True)
            changes.collapse_rollback(reader, encoded, command.start_ts)
        return changes.finish(SecondaryLocks())
    return changes.finish(SecondaryLocks(tuple(locks)))

"""Pessimistic locks: a transaction keeps others off a key before it knows what it will write.

A statement locks what it is about to change, at a timestamp of its own, `for_update_ts`: what was committed above that is a
conflict of the statement, which is then repeated with a newer one, and not of the transaction, which goes on.

    start_ts 10          another one commits at 20          for_update_ts 15: conflict            25: locked
    ────┼───────────────────────┼──────────────────────────────────┼─────────────────────────────────┼──────▶

A lock of another transaction is answered by KeyIsLocked, and the caller of the evaluator decides whether to wait
(`lock_waits`). After waiting it evaluates the command anew, as `after_waiting` returns it: time to live is counted from the
transaction's start, so it has to grow by the time that was waited, or a lock could be given that has expired already.

Invariants
----------
1. All keys or none: where one can't be locked nothing is written, also no lock on the primary.
2. A lock's `for_update_ts` is at or above every commit on the key at the time at which the lock is given.
3. A transaction that is rolled back at a key, or committed, can't lock it any more.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import LockRequest, PessimisticLock, PessimisticRollback
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import (
    AlreadyExists,
    ConflictReason,
    KeyIsLocked,
    LockIfExistsInvalid,
    LockKindMismatch,
    PessimisticLockRolledBack,
    TxnError,
    TxnErrorRaised,
    WriteConflict,
)
from pytinykv.transaction.prewrite import check_not_exists, next_last_change
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import LastChange, Lock, LockKind, Write
from pytinykv.transaction.results import DONE, Evaluation, KeyLocked, PessimisticLockResult
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

LOCK_TTL_MS_MAX: Final = (1 << 64) - 1
"""A record has room for no longer time to live."""


def after_waiting(command: PessimisticLock, waited_ms: int) -> PessimisticLock:
    """Return the command as if it had been sent now, `waited_ms` after it was: its locks live for the whole time from now
    on.
    """
    lock_ttl_ms = min(command.lock_ttl_ms + max(0, waited_ms), LOCK_TTL_MS_MAX)
    return msgspec.structs.replace(command, lock_ttl_ms=lock_ttl_ms)


def pessimistic_lock(reader: MvccReader, command: PessimisticLock, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a PessimisticLock."""
    reader.check_safe_point(command.primary, command.start_ts)
    locker = _Locker(reader, command, TxnChanges(manager))
    results = tuple(locker.lock(request) for request in command.keys)
    return locker.changes.finish(PessimisticLockResult(results))


class _Locker:
    """One command under evaluation."""

    def __init__(self, reader: MvccReader, command: PessimisticLock, changes: TxnChanges) -> None:
        self._reader = reader
        self._command = command
        self.changes: Final = changes

    def lock(self, request: LockRequest) -> KeyLocked:
        """Lock one key. Raises TxnErrorRaised."""
        command, key = self._command, request.key
        if command.lock_only_if_exists and not command.return_values:
            raise TxnErrorRaised(LockIfExistsInvalid(key=key, start_ts=command.start_ts))
        if request.should_not_exist or command.return_values or command.check_existence:
            # A read at for_update_ts.
            self.changes.manager.note_read(command.for_update_ts)
        encoded = encode_bytes(key)
        lock = self._reader.load_lock(encoded)
        if lock is None:
            return self._lock_free(request, encoded)
        if lock.start_ts != command.start_ts:
            raise TxnErrorRaised(KeyIsLocked(key=key, start_ts=command.start_ts, lock=lock))
        if not lock.is_pessimistic:
            raise TxnErrorRaised(LockKindMismatch(key=key, start_ts=command.start_ts, found_pessimistic=False))
        return self._lock_again(request, encoded, lock)

    # --- a key without a lock -----------------------------------------------------------------------------------

    def _lock_free(self, request: LockRequest, encoded: bytes) -> KeyLocked:
        command, key = self._command, request.key
        newest = self._reader.seek_write(encoded, MAX_TIMESTAMP)
        conflict: WriteConflict | None = None
        if newest is not None:
            conflict = self._check_newest(key, encoded, *newest)
            if request.should_not_exist:
                self._check_not_exists(key, encoded, newest, conflict)
        for_update_ts = command.for_update_ts if conflict is None else conflict.conflict_commit_ts
        result = self._read(encoded, for_update_ts, conflict)
        if command.lock_only_if_exists and not result.exists:
            if conflict is not None:
                raise TxnErrorRaised(conflict)
            return msgspec.structs.replace(result, is_locked=False)
        last_change = next_last_change(self._reader, encoded, newest)
        lock = self._make_lock(for_update_ts, last_change, with_conflict=conflict is not None)
        self.changes.put_lock(key, encoded, lock, is_new=True)
        return result

    def _check_newest(self, key: bytes, encoded: bytes, commit_ts: Timestamp, write: Write) -> WriteConflict | None:
        """Check the newest record of a key; return the conflict despite which it is locked, None without one."""
        command = self._command
        conflict: WriteConflict | None = None
        if commit_ts > command.for_update_ts:
            conflict = WriteConflict(
                key=key,
                start_ts=command.start_ts,
                conflict_start_ts=write.start_ts,
                conflict_commit_ts=commit_ts,
                primary=command.primary,
                reason=ConflictReason.PESSIMISTIC_RETRY,
            )
            if not command.allow_lock_with_conflict:
                raise TxnErrorRaised(conflict)
        if commit_ts >= command.start_ts:
            record = self._reader.commit_record(encoded, command.start_ts)
            if record.is_committed and conflict is not None:
                raise TxnErrorRaised(conflict)
            if record.is_rolled_back:
                raise TxnErrorRaised(PessimisticLockRolledBack(key=key, start_ts=command.start_ts))
        return conflict

    def _check_not_exists(
        self, key: bytes, encoded: bytes, newest: tuple[Timestamp, Write], conflict: WriteConflict | None
    ) -> None:
        """Raise AlreadyExists if there is a value; or the conflict, if the client's statement could not have seen it."""
        try:
            check_not_exists(self._reader, key, encoded, newest, self._command.start_ts)
        except TxnErrorRaised as raised:
            raise raised if conflict is None else TxnErrorRaised(conflict) from None

    # --- a key that the transaction has locked before --------------------------------------------------------------

    def _lock_again(self, request: LockRequest, encoded: bytes, lock: Lock) -> KeyLocked:
        """Answer a repeated request, or lock for a newer statement."""
        command, key = self._command, request.key
        for_update_ts, conflict_ts = command.for_update_ts, Timestamp(0)
        if command.allow_lock_with_conflict and for_update_ts < lock.for_update_ts:
            # The answer to the request that got the lock may be lost: the same again.
            for_update_ts = conflict_ts = lock.for_update_ts
        found = self._reader.newest_put(encoded, for_update_ts)
        if request.should_not_exist and found is not None:
            raise TxnErrorRaised(self._exists(key, found[0], found[1]))
        result = self._result(encoded, found, conflict_ts)
        if for_update_ts > lock.for_update_ts:
            renewed = self._make_lock(for_update_ts, lock.last_change, with_conflict=lock.is_locked_with_conflict)
            # What was promised about the lock stays: its time to live and where it may commit.
            renewed = msgspec.structs.replace(
                renewed,
                primary=command.primary,
                ttl_ms=max(lock.ttl_ms, renewed.ttl_ms),
                min_commit_ts=max(lock.min_commit_ts, renewed.min_commit_ts),
            )
            self.changes.put_lock(key, encoded, renewed, is_new=False)
        return result

    def _exists(self, key: bytes, commit_ts: Timestamp, write: Write) -> TxnError:
        command = self._command
        if commit_ts <= command.for_update_ts:
            return AlreadyExists(key=key, start_ts=command.start_ts, existing_start_ts=write.start_ts)
        return WriteConflict(
            key=key,
            start_ts=command.start_ts,
            conflict_start_ts=write.start_ts,
            conflict_commit_ts=commit_ts,
            primary=command.primary,
            reason=ConflictReason.PESSIMISTIC_RETRY,
        )

    # --- both ---------------------------------------------------------------------------------------------------

    def _read(self, encoded: bytes, for_update_ts: Timestamp, conflict: WriteConflict | None) -> KeyLocked:
        command = self._command
        if conflict is None and not (command.return_values or command.check_existence):
            return _LOCKED
        found = self._reader.newest_put(encoded, for_update_ts)
        return self._result(encoded, found, Timestamp(0) if conflict is None else conflict.conflict_commit_ts)

    def _result(self, encoded: bytes, found: tuple[Timestamp, Write] | None, conflict_ts: Timestamp) -> KeyLocked:
        command = self._command
        wants_value = command.return_values or conflict_ts != 0
        if not (wants_value or command.check_existence):
            return _LOCKED
        value = self._reader.value_of(encoded, found[1]) if found is not None and wants_value else None
        return KeyLocked(found is not None, value, conflict_ts)

    def _make_lock(self, for_update_ts: Timestamp, last_change: LastChange | None, *, with_conflict: bool) -> Lock:
        command = self._command
        return Lock(
            kind=LockKind.PESSIMISTIC,
            primary=command.primary,
            start_ts=command.start_ts,
            ttl_ms=command.lock_ttl_ms,
            for_update_ts=for_update_ts,
            min_commit_ts=command.min_commit_ts,
            last_change=last_change,
            is_locked_with_conflict=with_conflict,
        )


_LOCKED: Final = KeyLocked()


def pessimistic_rollback(reader: MvccReader, command: PessimisticRollback, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a PessimisticRollback. A prewritten lock, or one for a later statement, stays."""
    changes = TxnChanges(manager)
    for key in dict.fromkeys(command.keys):
        encoded = encode_bytes(key)
        lock = reader.load_lock(encoded)
        if (
            lock is not None
            and lock.is_pessimistic
            and lock.start_ts == command.start_ts
            and lock.for_update_ts <= command.for_update_ts
        ):
            changes.unlock(key, encoded, lock.start_ts)
    return changes.finish(DONE)

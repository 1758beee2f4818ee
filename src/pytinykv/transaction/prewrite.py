"""Prewrite: lock every key and write its value down, if no other transaction is in the way (Percolator, 2.2, figure 6).

    per key    1. a lock of another transaction: KeyIsLocked        its own: done before, or pessimistic and now prewritten
               2. a record above start_ts: WriteConflict            the transaction's own rollback: WriteConflict, too
               3. what the client asserts, or an insert demands
               4. the lock, with a short value inside, and a long one in `default`

With async commit and one-phase commit this store chooses from which timestamp on the transaction may be committed, see
`concurrency`. If it comes out above `max_commit_ts`, or a key was locked before without, all of the command falls back to
two phases, which its answer tells by having no timestamp.

Pessimistic transactions have checked for conflicts when they locked, so a key with the lock is not checked again. If the
lock is gone it is as good as there while nothing was written since (`_amend`). A key that was never locked is always
checked, although TiKV leaves that out: its cost is one seek, and without it an update by an optimistic transaction would
be lost.

Invariants
----------
1. All or nothing: a failure leaves no lock, neither in the engine nor in memory.
2. Repeated after any outcome, it is refused or changes nothing: after its commit (then it is a success, with the commit_ts
   where one is answered), after its rollback (refused), with its locks still there (success).
3. No prewrite overtakes a rollback: a record of it, or one above it, refuses it. (Not below the safe point, where records
may be
   gone: there it is refused as SnapshotTooOld.)
"""

from __future__ import annotations

from typing import Final

import msgspec

from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import AssertionLevel, Mutation, MutationOp, PessimisticAction, Prewrite
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import (
    AlreadyExists,
    Assertion,
    AssertionFailed,
    ConflictReason,
    KeyIsLocked,
    LockKindMismatch,
    LockMissing,
    PessimisticLockNotFound,
    TxnError,
    TxnErrorRaised,
    WriteConflict,
)
from pytinykv.transaction.reader import MvccReader, before
from pytinykv.transaction.records import (
    NO_TS,
    SHORT_VALUE_BYTES_MAX,
    WRITE_OF_LOCK,
    LastChange,
    Lock,
    LockKind,
    Write,
    WriteKind,
)
from pytinykv.transaction.results import Evaluation, Failure, PrewriteResult
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

_LOCK_OF_OP: Final = {
    MutationOp.PUT: LockKind.PUT,
    MutationOp.INSERT: LockKind.PUT,
    MutationOp.DELETE: LockKind.DELETE,
    MutationOp.LOCK: LockKind.LOCK,
}

_Found = tuple[Timestamp, Write] | None
"""(commit_ts, record)"""


def prewrite(reader: MvccReader, command: Prewrite, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a Prewrite."""
    reader.check_safe_point(command.primary, command.start_ts)
    return _Prewriter(reader, command, manager).run()


class _CommittedBefore(Exception):
    """The transaction is committed already."""

    def __init__(self, commit_ts: Timestamp) -> None:
        super().__init__(commit_ts)
        self.commit_ts = commit_ts


class _Prepared(msgspec.Struct):
    """A lock that is worked out: written as it is, or committed at once."""

    key: bytes
    encoded: bytes
    lock: Lock
    had_lock: bool
    """The transaction's pessimistic lock is on the key."""


class _Prewriter:
    """One command under evaluation."""

    def __init__(self, reader: MvccReader, command: Prewrite, manager: ConcurrencyManager) -> None:
        self._reader = reader
        self._command = command
        self._changes = TxnChanges(manager)
        self._is_pessimistic = command.for_update_ts != 0
        self._prepared: list[_Prepared] = []
        """Keys that passed all checks, with the locks they get. Nothing is written before all have."""
        self._min_commit_ts = NO_TS
        """The largest of all keys, as long as the transaction chooses its own commit timestamp."""
        self._is_two_phase = command.secondaries is None and not command.try_one_pc
        """Moved to True by the first key that makes it necessary."""

    def run(self) -> Evaluation:
        locked: list[TxnError] = []
        assertion: TxnError | None = None
        try:
            # Of several for one key the last one counts.
            for mutation in {mutation.key: mutation for mutation in self._command.mutations}.values():
                try:
                    self._prewrite(mutation)
                except TxnErrorRaised as raised:
                    error = raised.error
                    self._check_not_committed(error)
                    if isinstance(error, KeyIsLocked):
                        locked.append(error)
                    elif isinstance(error, AssertionFailed):
                        assertion = assertion or error
                    else:
                        return self._changes.give_up(Failure((error,)))
        except _CommittedBefore as before_:
            return self._changes.give_up(self._result(before_.commit_ts))
        if assertion is not None:
            return self._changes.give_up(Failure((assertion,)))
        if locked:
            return self._changes.give_up(Failure(tuple(locked)))
        return self._finish()

    def _result(self, commit_ts: Timestamp) -> PrewriteResult:
        """Return the answer of a command that may be committed from a timestamp on, or is committed at it."""
        if self._command.try_one_pc and not self._is_two_phase:
            return PrewriteResult(one_pc_commit_ts=commit_ts)
        if self._command.secondaries is not None and not self._is_two_phase:
            return PrewriteResult(min_commit_ts=commit_ts)
        return PrewriteResult()

    def _check_not_committed(self, error: TxnError) -> None:
        """Raise _CommittedBefore if what stands in the way comes from the transaction's own commit, or came after it."""
        is_conflict = isinstance(error, WriteConflict) and error.conflict_commit_ts > self._command.start_ts
        if is_conflict or isinstance(error, KeyIsLocked | PessimisticLockNotFound | AlreadyExists):
            record = self._reader.commit_record(encode_bytes(error.key), self._command.start_ts)
            if record.is_committed:
                raise _CommittedBefore(record.commit_ts)

    def _finish(self) -> Evaluation:
        """Write all locks, or all commit records."""
        changes = self._changes
        if self._is_two_phase:
            changes.unlock_memory()
        for prepared in self._prepared:
            if self._is_two_phase:
                lock = msgspec.structs.replace(prepared.lock, use_async_commit=False, use_one_pc=False, secondaries=())
                changes.put_lock(prepared.key, prepared.encoded, lock, is_new=not prepared.had_lock)
            elif self._command.try_one_pc:
                self._commit_at_once(prepared)
            else:
                changes.put_lock(prepared.key, prepared.encoded, prepared.lock, is_new=not prepared.had_lock)
        return changes.finish(self._result(self._min_commit_ts))

    def _commit_at_once(self, prepared: _Prepared) -> None:
        # No rollback record can be in the place of this one: the commit_ts is above every start_ts that was noted as read,
        # and a command that writes a protected rollback notes its start_ts first.
        lock = prepared.lock
        record = Write(
            kind=WRITE_OF_LOCK[lock.kind],
            start_ts=lock.start_ts,
            short_value=lock.short_value,
            last_change=lock.last_change,
            source=lock.source,
        )
        self._changes.put_write(prepared.encoded, self._min_commit_ts, record)
        if prepared.had_lock:
            self._changes.unlock(prepared.key, prepared.encoded, lock.start_ts, self._min_commit_ts)

    # --- one key ------------------------------------------------------------------------------------------------

    def _prewrite(self, mutation: Mutation) -> None:
        command = self._command
        key, encoded = mutation.key, encode_bytes(mutation.key)
        if mutation.op in (MutationOp.INSERT, MutationOp.CHECK_NOT_EXISTS):
            # It tells the client that there is no value, so none may be committed below later on.
            self._changes.manager.note_read(command.start_ts)
        lock = self._reader.load_lock(encoded)
        if lock is not None:
            self._check_lock(mutation, lock)
            if not lock.is_pessimistic:
                self._locked_before(lock)
                return
        last_change = self._check_writes(mutation, encoded, lock)
        if mutation.op is MutationOp.CHECK_NOT_EXISTS:
            self._raise_min_commit_ts(max(command.min_commit_ts, after(command.start_ts)))
        else:
            self._prepare(mutation, key, encoded, lock, last_change)

    def _check_lock(self, mutation: Mutation, lock: Lock) -> None:
        """Raise the error if a lock is not this transaction's, or not as it should be."""
        key, start_ts = mutation.key, self._command.start_ts
        if lock.start_ts != start_ts:
            if self._needs_lock(mutation):
                raise self._lock_missing(key, LockMissing.OTHER_TRANSACTION)
            raise TxnErrorRaised(KeyIsLocked(key=key, start_ts=start_ts, lock=lock))
        if not lock.is_pessimistic:
            return
        if not self._is_pessimistic:
            raise TxnErrorRaised(LockKindMismatch(key=key, start_ts=start_ts, found_pessimistic=True))
        if mutation.expected_for_update_ts not in (0, lock.for_update_ts):
            raise self._lock_missing(key, LockMissing.FOR_UPDATE_TS)

    def _locked_before(self, lock: Lock) -> None:
        """Take note of a lock that an earlier attempt has left."""
        if self._is_two_phase:
            return
        if lock.use_async_commit and not self._command.try_one_pc:
            self._raise_min_commit_ts(lock.min_commit_ts)
        else:
            # It was two-phase before. Or some keys are locked already, so that they can't all be committed here at once.
            self._is_two_phase = True

    def _check_writes(self, mutation: Mutation, encoded: bytes, lock: Lock | None) -> LastChange | None:
        """Check the records of a key; return where its last change is, for a LOCK record to carry."""
        if lock is not None and self._needs_lock(mutation):
            if self._command.assertion_level is AssertionLevel.STRICT:
                self._check_assertion(mutation, encoded, self._reader.newest_change(encoded, MAX_TIMESTAMP))
            return lock.last_change
        find_newest = self._amend if self._needs_lock(mutation) else self._check_conflicts
        newest = find_newest(mutation, encoded)
        self._check_assertion(mutation, encoded, newest)
        return next_last_change(self._reader, encoded, newest)

    def _needs_lock(self, mutation: Mutation) -> bool:
        return self._is_pessimistic and mutation.action is PessimisticAction.CHECK_LOCK

    def _amend(self, mutation: Mutation, encoded: bytes) -> _Found:
        """Do without a pessimistic lock that should be there and is not, if nothing was written since it was taken.

        It was taken at or after start_ts, so a record below that is older than the lock.
        """
        newest = self._reader.seek_write(encoded, MAX_TIMESTAMP)
        if newest is not None and newest[0] >= self._command.start_ts:
            raise self._lock_missing(mutation.key, LockMissing.CHANGED)
        return newest

    def _check_conflicts(self, mutation: Mutation, encoded: bytes) -> _Found:
        """Return the newest record, if none is in the way; in a pessimistic transaction newer rollbacks of others are not."""
        command = self._command
        start_ts = command.start_ts
        newest = found = self._reader.seek_write(encoded, MAX_TIMESTAMP)
        while found is not None:
            commit_ts, write = found
            is_rollback = write.kind is WriteKind.ROLLBACK
            if commit_ts == start_ts and (is_rollback or write.has_overlapped_rollback):
                raise self._conflict(mutation.key, commit_ts, write, ConflictReason.SELF_ROLLED_BACK)
            if not self._is_pessimistic and commit_ts > start_ts:
                raise self._conflict(mutation.key, commit_ts, write, ConflictReason.OPTIMISTIC)
            if mutation.action is PessimisticAction.CHECK_CONSTRAINT and commit_ts > start_ts and self._is_pessimistic:
                raise self._conflict(mutation.key, commit_ts, write, ConflictReason.LAZY_UNIQUENESS_CHECK)
            if commit_ts > command.for_update_ts and self._is_pessimistic:
                if not is_rollback:
                    raise self._lock_missing(mutation.key, LockMissing.NOT_LOCKED_KEY_CONFLICT)
                found = self._reader.seek_write(encoded, before(commit_ts))
                continue
            if commit_ts > start_ts:
                self._check_own_rollback(mutation.key, encoded)
            break
        if mutation.op in (MutationOp.INSERT, MutationOp.CHECK_NOT_EXISTS):
            check_not_exists(self._reader, mutation.key, encoded, found, start_ts)
        return newest

    def _check_own_rollback(self, key: bytes, encoded: bytes) -> None:
        """Look for the transaction's own rollback below a newer record, which a pessimistic transaction may not mind."""
        record = self._reader.commit_record(encoded, self._command.start_ts)
        if record.is_committed:
            raise _CommittedBefore(record.commit_ts)
        if record.is_rolled_back:
            raise self._conflict(
                key, self._command.start_ts, record.write or _OVERLAPPED, ConflictReason.SELF_ROLLED_BACK
            )

    def _check_assertion(self, mutation: Mutation, encoded: bytes, newest: _Found) -> None:
        if mutation.assertion is Assertion.NONE or self._command.assertion_level is AssertionLevel.OFF:
            return
        change = newest
        if change is not None and change[1].kind in (WriteKind.LOCK, WriteKind.ROLLBACK):
            change = self._reader.newest_change(encoded, before(change[0]))
        if change is not None and change[1].gc_fence:
            change = None
        exists = change is not None and change[1].kind is WriteKind.PUT
        if exists is (mutation.assertion is Assertion.EXISTS):
            return
        commit_ts, start_ts = (NO_TS, NO_TS) if change is None else (change[0], change[1].start_ts)
        raise TxnErrorRaised(
            AssertionFailed(
                key=mutation.key,
                start_ts=self._command.start_ts,
                assertion=mutation.assertion,
                existing_start_ts=start_ts,
                existing_commit_ts=commit_ts,
            )
        )

    # --- the lock -----------------------------------------------------------------------------------------------

    def _prepare(
        self, mutation: Mutation, key: bytes, encoded: bytes, had: Lock | None, last_change: LastChange | None
    ) -> None:
        """Work out a key's lock."""
        command = self._command
        is_short = len(mutation.value) <= SHORT_VALUE_BYTES_MAX
        kind = _LOCK_OF_OP[mutation.op]
        lock = Lock(
            kind=kind,
            primary=command.primary,
            start_ts=command.start_ts,
            # A pessimistic lock may have been prolonged, and promises may have been made about it.
            ttl_ms=max(command.lock_ttl_ms, had.ttl_ms) if had is not None else command.lock_ttl_ms,
            short_value=mutation.value if kind is LockKind.PUT and is_short else None,
            for_update_ts=max(command.for_update_ts, had.for_update_ts) if had is not None else command.for_update_ts,
            txn_size=command.txn_size,
            min_commit_ts=max(command.min_commit_ts, had.min_commit_ts) if had is not None else command.min_commit_ts,
            last_change=last_change if kind is LockKind.LOCK else None,
            source=command.source,
        )
        if not self._is_two_phase:
            lock = self._choose_min_commit_ts(key, lock)
        if kind is LockKind.PUT and not is_short:
            self._changes.put_value(encoded, command.start_ts, mutation.value)
        self._prepared.append(_Prepared(key, encoded, lock, had is not None))

    def _choose_min_commit_ts(self, key: bytes, lock: Lock) -> Lock:
        """Return the lock with the smallest commit timestamp that no read contradicts, and show it in memory."""
        command = self._command
        max_ts = self._changes.manager.max_ts
        least = max(lock.min_commit_ts, after(max(max_ts, command.start_ts, command.for_update_ts)))
        if command.max_commit_ts and least > command.max_commit_ts:
            self._is_two_phase = True
            return lock
        chosen = msgspec.structs.replace(
            lock,
            min_commit_ts=least,
            use_async_commit=command.secondaries is not None,
            secondaries=(command.secondaries or ()) if key == command.primary else (),
            use_one_pc=command.try_one_pc,
        )
        self._changes.lock_in_memory(key, chosen)
        self._raise_min_commit_ts(least)
        return chosen

    def _raise_min_commit_ts(self, timestamp: Timestamp) -> None:
        self._min_commit_ts = max(self._min_commit_ts, timestamp)

    # --- errors -------------------------------------------------------------------------------------------------

    def _lock_missing(self, key: bytes, reason: LockMissing) -> TxnErrorRaised:
        return TxnErrorRaised(PessimisticLockNotFound(key=key, start_ts=self._command.start_ts, reason=reason))

    def _conflict(self, key: bytes, commit_ts: Timestamp, write: Write, reason: ConflictReason) -> TxnErrorRaised:
        return TxnErrorRaised(
            WriteConflict(
                key=key,
                start_ts=self._command.start_ts,
                conflict_start_ts=write.start_ts,
                conflict_commit_ts=commit_ts,
                primary=self._command.primary,
                reason=reason,
            )
        )


_OVERLAPPED: Final = Write(kind=WriteKind.ROLLBACK, start_ts=NO_TS)
"""Stands in an error for another transaction's record in which a rollback is noted."""


def after(timestamp: Timestamp) -> Timestamp:
    """Return the timestamp just above one."""
    return Timestamp(timestamp + 1)


def check_not_exists(reader: MvccReader, key: bytes, encoded: bytes, newest: _Found, start_ts: Timestamp) -> None:
    """Raise AlreadyExists if a key has a value, given its newest record."""
    if newest is None or newest[1].kind is WriteKind.DELETE or newest[1].gc_fence:
        return
    commit_ts, write = newest
    found = newest if write.kind is WriteKind.PUT else reader.newest_put(encoded, before(commit_ts))
    if found is not None:
        raise TxnErrorRaised(AlreadyExists(key=key, start_ts=start_ts, existing_start_ts=found[1].start_ts))


def next_last_change(reader: MvccReader, encoded: bytes, newest: _Found) -> LastChange:
    """Return what a LOCK record above the newest record of a key says of the last change."""
    if newest is None:
        return _NO_CHANGE
    commit_ts, write = newest
    if write.kind is WriteKind.PUT or write.kind is WriteKind.DELETE:
        return LastChange(commit_ts, 1)
    if write.last_change is not None:
        last = write.last_change
        return LastChange(last.commit_ts, last.versions + 1) if last.commit_ts else _NO_CHANGE
    change = reader.newest_change(encoded, before(commit_ts))
    return _NO_CHANGE if change is None else LastChange(change[0], 2)


_NO_CHANGE: Final = LastChange(NO_TS, 1)

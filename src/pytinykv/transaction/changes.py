"""What one command is going to change, as it is worked out key by key.

Evaluators look at the engine through a `MvccReader` and write down here what follows. They never see their own changes: a key
occurs once in a command, or what follows from it twice is the same.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import CF_CODES, DELETE, PUT, Change
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.reader import CommitRecord, MvccReader, before
from pytinykv.transaction.records import (
    NO_TS,
    Lock,
    LockKind,
    Write,
    WriteKind,
    encode_lock,
    encode_write,
    rollback_record,
)
from pytinykv.transaction.results import Evaluation, LockInfo, ReleasedLock, Result
from pytinykv.transaction.stored_keys import stored_key
from pytinykv.wire.timestamp import Timestamp

_DEFAULT: Final = CF_CODES[ColumnFamily.DEFAULT]
_LOCK: Final = CF_CODES[ColumnFamily.LOCK]
_WRITE: Final = CF_CODES[ColumnFamily.WRITE]


class TxnChanges:
    """Collects what a command changes. Methods take the user's key, the encoded one, or both, as they need."""

    __slots__ = ("changes", "manager", "memory_locks", "new_locks", "released")

    def __init__(self, manager: ConcurrencyManager) -> None:
        self.manager: Final = manager
        self.changes: list[Change] = []
        """For the engine, in the order in which they have to be applied. Only grows, as the lists below."""
        self.released: list[ReleasedLock] = []
        """Locks that end with these changes: their waiters are told once they are applied."""
        self.new_locks: list[LockInfo] = []
        """Locks that begin with these changes, for waiters that stand behind the old ones."""
        self.memory_locks: list[bytes] = []
        """User's keys that this command has locked in the manager."""

    def finish(self, result: Result) -> Evaluation:
        """Return what the command does."""
        return Evaluation(result, self.changes, self.released, self.new_locks, tuple(self.memory_locks))

    def give_up(self, result: Result) -> Evaluation:
        """Return that the command does nothing; what it has locked in memory is free again."""
        self.unlock_memory()
        return Evaluation(result)

    # --- locks --------------------------------------------------------------------------------------------------

    def put_lock(self, key: bytes, encoded: bytes, lock: Lock, *, is_new: bool) -> None:
        """Write a lock; `is_new`: the transaction had none on the key before."""
        if is_new:
            self.new_locks.append(LockInfo(key, lock))
        self.changes.append((PUT, _LOCK, encoded, encode_lock(lock)))

    def unlock(self, key: bytes, encoded: bytes, start_ts: Timestamp, commit_ts: Timestamp = NO_TS) -> None:
        """Take a lock away; `commit_ts` 0: by a rollback."""
        self.released.append(ReleasedLock(key, start_ts, commit_ts))
        self.changes.append((DELETE, _LOCK, encoded))

    def lock_in_memory(self, key: bytes, lock: Lock) -> None:
        """Show a lock to readers from now on."""
        self.manager.lock(key, lock)
        self.memory_locks.append(key)

    def unlock_memory(self) -> None:
        """Take back all that was locked in memory."""
        self.manager.unlock(self.memory_locks)
        self.memory_locks.clear()

    # --- values and records -------------------------------------------------------------------------------------

    def put_value(self, encoded: bytes, start_ts: Timestamp, value: bytes) -> None:
        """Write a value that is too long for lock and record."""
        self.changes.append((PUT, _DEFAULT, stored_key(encoded, start_ts), value))

    def delete_value(self, encoded: bytes, start_ts: Timestamp) -> None:
        self.changes.append((DELETE, _DEFAULT, stored_key(encoded, start_ts)))

    def put_write(self, encoded: bytes, commit_ts: Timestamp, write: Write) -> None:
        self.changes.append((PUT, _WRITE, stored_key(encoded, commit_ts), encode_write(write)))

    def delete_write(self, encoded: bytes, commit_ts: Timestamp) -> None:
        self.changes.append((DELETE, _WRITE, stored_key(encoded, commit_ts)))

    # --- rollbacks ----------------------------------------------------------------------------------------------

    def roll_back(
        self,
        reader: MvccReader,
        key: bytes,
        encoded: bytes,
        lock: Lock,
        *,
        collapse: bool,
    ) -> None:
        """Take a transaction's own lock away, and leave a record by which its late prewrite or commit is refused.

        The record on the primary of a pessimistic transaction is protected: nothing else would stop such a prewrite, which
        does not look for newer versions where it finds its lock.
        """
        record = reader.commit_record(encoded, lock.start_ts)
        # A pessimistic lock may come late, after its transaction is committed; a prewritten one can't.
        assert lock.is_pessimistic or not record.is_committed, f"committed {lock.start_ts} has a lock on {key!r}"
        if record.write is None and not record.is_rolled_back:
            if lock.kind is LockKind.PUT and lock.short_value is None:
                self.delete_value(encoded, lock.start_ts)
            protected = lock.generation > 0 or (lock.is_of_pessimistic_txn and key == lock.primary)
            self.put_rollback(encoded, lock.start_ts, record, protected=protected)
            if collapse:
                self.collapse_rollback(reader, encoded, lock.start_ts)
        self.unlock(key, encoded, lock.start_ts)

    def put_rollback(self, encoded: bytes, start_ts: Timestamp, record: CommitRecord, *, protected: bool) -> None:
        """Write that a transaction is rolled back at a key.

        Where another transaction's record is in its place (that one committed at this one's start_ts), it is noted in there.
        """
        if record.overlapped is None:
            self.put_write(encoded, start_ts, rollback_record(start_ts, protected=protected))
        else:
            noted = msgspec.structs.replace(record.overlapped, has_overlapped_rollback=True, gc_fence=record.gc_fence)
            self.put_write(encoded, start_ts, noted)

    def collapse_rollback(self, reader: MvccReader, encoded: bytes, start_ts: Timestamp) -> None:
        """Delete the record just below if it is a rollback that is not protected: the one above refuses for both.

        So a key that is rolled back over and over has one such record, not thousands.
        """
        below = reader.seek_write(encoded, before(start_ts))
        if below is not None and below[1].kind is WriteKind.ROLLBACK and not below[1].is_protected:
            self.delete_write(encoded, below[0])

    def note_rollback_in_lock(self, key: bytes, encoded: bytes, lock: Lock, start_ts: Timestamp) -> None:
        """Note a rollback in another transaction's lock, if committing that might overwrite the record.

        Only async commit chooses a commit_ts that may be another's start_ts, and never one below its `min_commit_ts`.
        """
        if lock.use_async_commit and lock.min_commit_ts <= start_ts and start_ts not in lock.rollback_ts:
            noted = msgspec.structs.replace(lock, rollback_ts=(*lock.rollback_ts, start_ts))
            self.put_lock(key, encoded, noted, is_new=False)

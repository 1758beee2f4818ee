"""Reading versions, locks and commit records of single keys, in one state of an engine.

    get(k) at version 25          write CF of k: 30 PUT · 22 LOCK · 20 PUT ← this one · 10 PUT
      1. a lock on k that may commit at or below 25: an error that names it
      2. the newest record at or below 25, by one seek; past LOCK and ROLLBACK records, which change nothing
      3. the value, which is in the record, or in `default` if it is long

(Percolator, section 2.2, figure 6.) The caller has noted the timestamp that it reads at in the `ConcurrencyManager` before,
and has looked at the locks that are only in memory. Ranges are read by `scan`.

Invariants
----------
1. A reader sees one state: it is used up before anything is written, or its source is a snapshot.
2. Nothing is read below the safe point: versions may be missing there. `SnapshotTooOld` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from pytinykv.storage import ColumnFamily
from pytinykv.transaction.commands import Isolation, ReadView
from pytinykv.transaction.concurrency import lock_in_the_way
from pytinykv.transaction.errors import ConflictReason, SnapshotTooOld, TxnErrorRaised, WriteConflict
from pytinykv.transaction.records import (
    NO_TS,
    Lock,
    LockKind,
    RecordFormatError,
    Write,
    WriteKind,
    decode_lock,
    decode_write,
    short_value_of_put,
)
from pytinykv.transaction.results import GetResult, Pair
from pytinykv.transaction.stored_keys import encode_bytes, stored_key, timestamp_of
from pytinykv.wire.keys import describe_key
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

if TYPE_CHECKING:
    from pytinykv.storage import Cursor, Reader

_DEFAULT: Final = ColumnFamily.DEFAULT
_LOCK: Final = ColumnFamily.LOCK
_WRITE: Final = ColumnFamily.WRITE

JUMP_VERSIONS_MIN: Final = 8
"""From so many records in between on, a seek costs less than stepping."""


class CommitRecord(msgspec.Struct, frozen=True):
    """What column family `write` knows of one transaction at one key.

    write set                       committed at `commit_ts`, or rolled back (`write.kind`)
    is_overlapped_rollback          rolled back; noted in another transaction's record
    neither                         nothing; `overlapped` is another's record in the place where a rollback would stand
    """

    commit_ts: Timestamp = NO_TS
    write: Write | None = None
    is_overlapped_rollback: bool = False
    overlapped: Write | None = None
    gc_fence: Timestamp = NO_TS
    """What to note in `overlapped` if a rollback is: the next put or delete above it."""

    @property
    def is_committed(self) -> bool:
        return self.write is not None and self.write.kind is not WriteKind.ROLLBACK

    @property
    def is_rolled_back(self) -> bool:
        return self.is_overlapped_rollback or (self.write is not None and self.write.kind is WriteKind.ROLLBACK)


class MvccReader:
    """Looks at single keys. Encoded keys are given where evaluators have them anyway, users' keys to `get` and
    `batch_get`.
    """

    __slots__ = ("_source", "_writes", "safe_point")

    def __init__(self, source: Reader, *, safe_point: Timestamp = NO_TS) -> None:
        self._source = source
        self._writes: Cursor | None = None
        """Over all commit records, made with the first one that is looked for."""
        self.safe_point: Final = safe_point
        """Up to which garbage may have been collected."""

    def close(self) -> None:
        """Let go of the engine's state. Idempotent."""
        if self._writes is not None:
            self._writes.close()
            self._writes = None

    # --- reads at a timestamp -----------------------------------------------------------------------------------

    def get(self, key: bytes, view: ReadView) -> GetResult:
        """Return what a user's key has at `view.version`.

        Raises:
            TxnErrorRaised: KeyIsLocked; SnapshotTooOld; WriteConflict with RC_CHECK_TS.
        """
        self.check_safe_point(key, view.version)
        encoded = encode_bytes(key)
        stored_lock = self._source.get(_LOCK, encoded)
        if stored_lock is not None and view.isolation is not Isolation.RC:
            lock = decode_lock(stored_lock)
            error = lock_in_the_way(key, lock, view)
            if error is not None:
                raise TxnErrorRaised(error)
            if reads_through(lock, view):
                return GetResult(self.value_of_lock(encoded, lock))
        if view.isolation is Isolation.RC_CHECK_TS:
            self._check_nothing_newer(key, encoded, view.version)
        stored = self._seek(encoded, view.version)
        if stored is None:
            return _NOTHING
        assert self._writes is not None
        value = short_value_of_put(self._writes.value())
        if value is not None:
            return GetResult(value, timestamp_of(stored))
        found = self.newest_put(encoded, view.version)
        return _NOTHING if found is None else GetResult(self.value_of(encoded, found[1]), found[0])

    def batch_get(self, keys: Iterable[bytes], view: ReadView) -> Iterator[Pair]:
        """Yield what users' keys have, in their order, an error in place of a locked one; nothing for absent ones.

        Raises:
            TxnErrorRaised: SnapshotTooOld.
        """
        for key in keys:
            try:
                value = self.get(key, view).value
            except TxnErrorRaised as raised:
                if isinstance(raised.error, SnapshotTooOld):
                    raise
                yield Pair(key, b"", raised.error)
            else:
                if value is not None:
                    yield Pair(key, value)

    def check_safe_point(self, key: bytes, version: Timestamp) -> None:
        """Raise SnapshotTooOld if what a reader at `version` should see may be gone."""
        if version < self.safe_point:
            raise TxnErrorRaised(SnapshotTooOld(key=key, start_ts=version, safe_point=self.safe_point))

    def _check_nothing_newer(self, key: bytes, encoded: bytes, version: Timestamp) -> None:
        newest = self.seek_write(encoded, MAX_TIMESTAMP)
        while newest is not None and newest[0] > version:
            commit_ts, write = newest
            if write.kind is WriteKind.PUT or write.kind is WriteKind.DELETE:
                raise TxnErrorRaised(newer_version(key, version, write.start_ts, commit_ts))
            newest = self.seek_write(encoded, before(commit_ts))

    # --- single records -----------------------------------------------------------------------------------------

    def load_lock(self, encoded: bytes) -> Lock | None:
        """Return the lock of a key."""
        stored = self._source.get(_LOCK, encoded)
        return None if stored is None else decode_lock(stored)

    def seek_write(self, encoded: bytes, timestamp: Timestamp) -> tuple[Timestamp, Write] | None:
        """Return (commit_ts, record) of the newest record of a key at or below a timestamp, of whatever kind."""
        stored = self._seek(encoded, timestamp)
        if stored is None:
            return None
        assert self._writes is not None
        return timestamp_of(stored), decode_write(self._writes.value())

    def _seek(self, encoded: bytes, timestamp: Timestamp) -> bytes | None:
        """Put the cursor on the newest record of a key at or below a timestamp; return its key, None if there is none."""
        cursor = self._writes
        if cursor is None:
            cursor = self._writes = self._source.cursor(_WRITE)
        stored = cursor.seek(stored_key(encoded, timestamp))
        return stored if stored is not None and stored.startswith(encoded) else None

    def newest_change(self, encoded: bytes, timestamp: Timestamp) -> tuple[Timestamp, Write] | None:
        """Return (commit_ts, record) of the newest put or delete of a key at or below a timestamp."""
        found = self.seek_write(encoded, timestamp)
        while found is not None:
            commit_ts, write = found
            if write.kind is WriteKind.PUT or write.kind is WriteKind.DELETE:
                return found
            found = self._below(encoded, commit_ts, write)
        return None

    def _below(self, encoded: bytes, commit_ts: Timestamp, write: Write) -> tuple[Timestamp, Write] | None:
        """Return the next record below one that changes nothing, or one further down if it is known to be the next change."""
        last = write.last_change
        if last is None or (last.commit_ts and last.versions < JUMP_VERSIONS_MIN):
            return self._step(encoded, commit_ts)
        return self.seek_write(encoded, last.commit_ts) if last.commit_ts else None

    def _step(self, encoded: bytes, commit_ts: Timestamp) -> tuple[Timestamp, Write] | None:
        """Return the record below the one at `commit_ts`, on which the cursor stands."""
        cursor = self._writes
        assert cursor is not None
        stored = cursor.next()
        if stored is None or not stored.startswith(encoded):
            return None
        assert timestamp_of(stored) < commit_ts
        return timestamp_of(stored), decode_write(cursor.value())

    def newest_put(self, encoded: bytes, timestamp: Timestamp) -> tuple[Timestamp, Write] | None:
        """Return (commit_ts, record) of what a reader at a timestamp finds at a key; None if that is nothing or a delete."""
        found = self.newest_change(encoded, timestamp)
        if found is None or found[1].kind is WriteKind.DELETE or found[1].is_fenced_off(timestamp):
            return None
        return found

    def value_of(self, encoded: bytes, write: Write) -> bytes:
        """Return the value of a PUT."""
        if write.short_value is not None:
            return write.short_value
        return self._long_value(encoded, write.start_ts)

    def value_of_lock(self, encoded: bytes, lock: Lock) -> bytes | None:
        """Return what committing a lock makes readable; None for a delete."""
        if lock.kind is not LockKind.PUT:
            return None
        return self._long_value(encoded, lock.start_ts) if lock.short_value is None else lock.short_value

    def _long_value(self, encoded: bytes, start_ts: Timestamp) -> bytes:
        value = self._source.get(_DEFAULT, stored_key(encoded, start_ts))
        if value is None:
            raise missing_value(encoded, start_ts)
        return value

    def commit_record(self, encoded: bytes, start_ts: Timestamp) -> CommitRecord:
        """Find out what became of a transaction at a key."""
        next_change = NO_TS
        found = self.seek_write(encoded, MAX_TIMESTAMP)
        while found is not None:
            commit_ts, write = found
            if write.start_ts == start_ts:
                return CommitRecord(commit_ts, write)
            if commit_ts == start_ts:
                if write.has_overlapped_rollback:
                    return CommitRecord(commit_ts, is_overlapped_rollback=True)
                return CommitRecord(overlapped=write, gc_fence=next_change)
            if commit_ts < start_ts:
                break
            if write.kind is WriteKind.PUT or write.kind is WriteKind.DELETE:
                next_change = commit_ts
            found = self._step(encoded, commit_ts)
        return CommitRecord()


_NOTHING: Final = GetResult(None)


def before(timestamp: Timestamp) -> Timestamp:
    """Return the timestamp just below one."""
    return Timestamp(timestamp - 1)


def reads_through(lock: Lock, view: ReadView) -> bool:
    """Tell whether a lock is to be read as if it were committed: `view` knows that it is, below its version."""
    return (
        lock.start_ts in view.committed_locks
        and lock.start_ts <= view.version
        and lock.min_commit_ts <= view.version
        and (lock.kind is LockKind.PUT or lock.kind is LockKind.DELETE)
        and lock.start_ts not in view.resolved_locks
    )


def newer_version(key: bytes, version: Timestamp, start_ts: Timestamp, commit_ts: Timestamp) -> WriteConflict:
    """Return the error of a read that may see nothing newer than its timestamp, and has."""
    return WriteConflict(
        key=key,
        start_ts=version,
        conflict_start_ts=start_ts,
        conflict_commit_ts=commit_ts,
        primary=b"",
        reason=ConflictReason.RC_CHECK_TS,
    )


def missing_value(encoded: bytes, start_ts: Timestamp) -> RecordFormatError:
    """Return the error for a record whose value is not in `default`: data is damaged, which no one may take for absence."""
    return RecordFormatError(
        f"the value that transaction {start_ts} has written to {describe_key(encoded)} is missing in column family default"
    )

"""What a store must remember of reads, and of locks on their way to the disk, so that it may choose commit timestamps itself.

Two-phase commit takes its commit_ts from the scheduler after all locks are on disk, so every read at or above it meets a
lock. Async and one-phase commit choose it while they lock:

    commit_ts = 1 + the largest of    every timestamp that this store has served a read at (`max_ts`)
                                      the transaction's start_ts and for_update_ts

    read at 80 ──────────▶ max_ts = 80 ──────────▶ prewrite commits at 81 or later: that read was right
    prewrite, commit at 51 ─▶ lock in memory ─▶ read at 80 meets it, although the disk does not show it yet

Invariants
----------
1. `max_ts` never goes down. A read at a timestamp is noted before it looks at anything.
2. From the moment at which a commit timestamp is chosen until the lock (or, in one phase, the commit record) can be read
   from the engine, the lock is here. So a read that is noted too late to be in `max_ts` finds it.
3. `max_ts` covers only what this store has read. A store that comes to lead a region does not know what the leader before has
   read: it must first note a timestamp that it fetched after it came to lead (`note_read`), and until then use two phases
   (`Prewrite.as_two_phase`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pytinykv.transaction.commands import Isolation, ReadView
from pytinykv.transaction.errors import (
    ConflictReason,
    KeyIsLocked,
    TimestampFromFuture,
    TxnError,
    TxnErrorRaised,
    WriteConflict,
)
from pytinykv.transaction.records import NO_TS, Lock, LockKind
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

_INVISIBLE = (LockKind.LOCK, LockKind.PESSIMISTIC)
"""Locks that will not change what is read, or may never."""


def lock_in_the_way(key: bytes, lock: Lock, view: ReadView) -> TxnError | None:
    """Return why a read must not pass the lock on the user's key `key`; None if it may."""
    if view.isolation is Isolation.RC or lock.kind in _INVISIBLE or lock.start_ts in view.resolved_locks:
        return None
    if view.isolation is Isolation.RC_CHECK_TS:
        return WriteConflict(
            key=key,
            start_ts=view.version,
            conflict_start_ts=lock.start_ts,
            conflict_commit_ts=NO_TS,
            primary=lock.primary,
            reason=ConflictReason.RC_CHECK_TS,
        )
    # It commits above its start_ts, and not below min_commit_ts.
    if lock.start_ts > view.version or lock.min_commit_ts > view.version:
        return None
    if lock.start_ts in view.committed_locks:
        return None
    if view.version == MAX_TIMESTAMP and key == lock.primary and not (lock.use_async_commit or lock.use_one_pc):
        # A read of the newest state is before the commit of a primary that is not committed yet: there is no later read
        # that could have seen more. With async or one-phase commit it may be committed already.
        return None
    return KeyIsLocked(key=key, lock=lock)


def _no_limit() -> Timestamp:
    return MAX_TIMESTAMP


class ConcurrencyManager:
    """The largest read timestamp of a store, and the locks of its memory. One for all regions; one thread."""

    def __init__(self, max_ts: Timestamp = NO_TS) -> None:
        self.max_ts = max_ts
        """The largest timestamp that was noted as read at. Moved by `note_read`, only up."""
        self.limit: Callable[[], Timestamp] = _no_limit
        """Returns above what no timestamp can have been handed out yet, for all that the manager's owner knows, who sets it;
        without a limit, the largest number. One request with a senseless timestamp would otherwise put all commits that are
        chosen here into the future, where readers don't see them."""
        self._locks: dict[bytes, Lock] = {}
        """By user's key. Filled by evaluations, emptied by those who have had their changes applied."""

    def note_read(self, version: Timestamp) -> None:
        """Take note that a read at `version` is served from now on.

        The largest number is the newest state, whenever that is, and not noted: such a read stops at all memory locks.

        Raises:
            TxnErrorRaised: TimestampFromFuture.
        """
        if self.max_ts < version < MAX_TIMESTAMP:
            limit = self.limit()
            if version > limit:
                raise TxnErrorRaised(TimestampFromFuture(key=b"", start_ts=version, limit=limit))
            self.max_ts = version

    def frozen(self) -> ConcurrencyManager:
        """Return the locks of this moment, for a read that goes on from a snapshot that is taken in the same step."""
        frozen = ConcurrencyManager(self.max_ts)
        frozen._locks.update(self._locks)
        return frozen

    def lock(self, key: bytes, lock: Lock) -> None:
        """Show a lock that is not in the engine yet. Its transaction holds the latch of the key."""
        self._locks[key] = lock

    def unlock(self, keys: Iterable[bytes]) -> None:
        """Forget locks that are in the engine by now, or never will be."""
        for key in keys:
            self._locks.pop(key, None)

    def lock_on(self, key: bytes) -> Lock | None:
        return self._locks.get(key)

    def __len__(self) -> int:
        """Return how many locks there are."""
        return len(self._locks)

    def blocks(self, key: bytes, view: ReadView) -> TxnError | None:
        """Return the memory lock that a read of a key has to wait for. First note the read."""
        lock = self._locks.get(key)
        return None if lock is None else _in_memory(key, lock, view)

    def blocks_range(self, start: bytes, end: bytes, view: ReadView) -> TxnError | None:
        """Return the first memory lock that a read of start <= key < end (empty: no end) has to wait for. First note it."""
        if not self._locks:
            return None
        for key in sorted(key for key in self._locks if start <= key and (not end or key < end)):
            error = _in_memory(key, self._locks[key], view)
            if error is not None:
                return error
        return None

    def locks_in_range(self, start: bytes, end: bytes, max_ts: Timestamp) -> list[tuple[bytes, Lock]]:
        """Return the memory locks of a range, by key, of transactions that began at or before `max_ts`."""
        return sorted(
            (key, lock)
            for key, lock in self._locks.items()
            if start <= key and (not end or key < end) and lock.start_ts <= max_ts
        )


def _in_memory(key: bytes, lock: Lock, view: ReadView) -> TxnError | None:
    """As `lock_in_the_way`; a lock that the client believes committed has no value here to read, so it is in the way."""
    if view.committed_locks:
        view = msgspec.structs.replace(view, committed_locks=frozenset())
    return lock_in_the_way(key, lock, view)

"""What commands are answered with, and what evaluating one gives: plain records, not yet in the form of the protocol."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from pytinykv.storage.changes import Change
from pytinykv.transaction.errors import TxnError
from pytinykv.transaction.records import NO_TS, Lock, Write
from pytinykv.wire.timestamp import Timestamp


class Failure(msgspec.Struct, frozen=True):
    """The command did nothing, or nothing more than its docstring says, because of these errors; never empty."""

    errors: tuple[TxnError, ...]


class Done(msgspec.Struct, frozen=True):
    """It is as the command wanted it."""


DONE = Done()


# --- reads --------------------------------------------------------------------------------------------------------


class GetResult(msgspec.Struct, frozen=True):
    """What a key has at a timestamp."""

    value: bytes | None
    """None: nothing."""
    commit_ts: Timestamp = NO_TS
    """Since when; 0 if there is no value, or it was read through a lock."""


class Pair(msgspec.Struct, frozen=True):
    """A row of a scan or batch: a value, or the lock that is in the way (`value` is then empty)."""

    key: bytes
    value: bytes
    error: TxnError | None = None


class PairsResult(msgspec.Struct, frozen=True):
    """What a scan or batch has found."""

    pairs: list[Pair]


class LockInfo(msgspec.Struct, frozen=True):
    """A lock and the user's key on which it stands."""

    key: bytes
    lock: Lock


class LocksResult(msgspec.Struct, frozen=True):
    """Locks, in key order."""

    locks: list[LockInfo]


class MvccInfo(msgspec.Struct, frozen=True):
    """Everything that is stored for a key, the newest first."""

    key: bytes
    lock: Lock | None
    writes: list[tuple[Timestamp, Write]]
    """(commit_ts, write)"""
    values: list[tuple[Timestamp, bytes]]
    """(start_ts, value): what stands in column family `default`."""


# --- writes -------------------------------------------------------------------------------------------------------


class PrewriteResult(msgspec.Struct, frozen=True):
    """All keys are locked, or committed in one phase."""

    min_commit_ts: Timestamp = NO_TS
    """With async commit: the transaction's commit_ts is the largest of these. 0: it has to be committed in two phases."""
    one_pc_commit_ts: Timestamp = NO_TS
    """Not 0: the transaction is committed, at this."""


class CommitResult(msgspec.Struct, frozen=True):
    """All keys are committed, now or before."""

    commit_ts: Timestamp


class CleanupResult(msgspec.Struct, frozen=True):
    """The transaction's fate is decided."""

    commit_ts: Timestamp = NO_TS
    """0: it is rolled back."""


class Action(IntEnum):
    """What checking a transaction's status has done; the numbers of kvrpcpb.Action."""

    NONE = 0
    TTL_EXPIRE_ROLLBACK = 1
    LOCK_NOT_EXIST_ROLLBACK = 2
    MIN_COMMIT_TS_PUSHED = 3
    TTL_EXPIRE_PESSIMISTIC_ROLLBACK = 4
    LOCK_NOT_EXIST_DO_NOTHING = 5


class TxnStatus(msgspec.Struct, frozen=True):
    """What became of a transaction.

    Alive: `lock` is there and its `ttl_ms` is not 0. Committed: `commit_ts` is not 0. Otherwise rolled back.
    """

    action: Action = Action.NONE
    commit_ts: Timestamp = NO_TS
    lock: LockInfo | None = None
    """The primary lock, as it is now."""


class HeartBeatResult(msgspec.Struct, frozen=True):
    """The primary lock is there."""

    lock_ttl_ms: int
    """Its time to live, which may be longer than was asked for."""


class SecondaryLocks(msgspec.Struct, frozen=True):
    """What became of the secondaries of a transaction.

    `locks` holds all of them if each key is locked. Otherwise it is empty, and the transaction is committed at
    `commit_ts`, or rolled back if that is 0.
    """

    locks: tuple[LockInfo, ...] = ()
    commit_ts: Timestamp = NO_TS


class KeyLocked(msgspec.Struct, frozen=True):
    """One key of a pessimistic lock request."""

    exists: bool | None = None
    """Whether it has a value; None if neither value nor existence was asked for."""
    value: bytes | None = None
    """Its value, if that was asked for or there was a conflict, and there is one."""
    conflict_ts: Timestamp = NO_TS
    """Not 0: locked although this commit is newer than the request's `for_update_ts`; it is the lock's `for_update_ts`
    now."""
    is_locked: bool = True
    """False only with `lock_only_if_exists`, for a key without a value."""


class PessimisticLockResult(msgspec.Struct, frozen=True):
    """All keys are locked, in the order of the request."""

    keys: tuple[KeyLocked, ...]


# --- evaluation ---------------------------------------------------------------------------------------------------


class ReleasedLock(msgspec.Struct, frozen=True):
    """A lock that is gone once the changes are applied: who waits for it may go on."""

    key: bytes
    start_ts: Timestamp
    commit_ts: Timestamp = NO_TS
    """0: it was rolled back, so nothing new is there."""


Result = (
    Failure
    | Done
    | PrewriteResult
    | CommitResult
    | CleanupResult
    | TxnStatus
    | HeartBeatResult
    | SecondaryLocks
    | PessimisticLockResult
)


class Evaluation(msgspec.Struct):
    """What a command does, worked out and not done yet.

    The caller holds latches on the command's keys. It replicates `changes`, and answers with `result` once they are
    applied, or at once if there are none. Then it wakes who waits for `released`, unlocks `memory_locks`, and only then
    gives the latches back. If the changes are refused or lost it does the same but for `result` and `released`; whether
    they were applied may then be unknown, so `memory_locks` stay until the region is led by another store or the log has
    told.
    """

    result: Result
    changes: list[Change] = []
    released: list[ReleasedLock] = []
    new_locks: list[LockInfo] = []
    """Locks that were not there before: those who wait for these keys now wait for this transaction."""
    memory_locks: tuple[bytes, ...] = ()
    """User's keys locked in the `ConcurrencyManager` by this evaluation."""

"""Why a transaction can't do to a key what it wants to: plain records, one for each cause.

    TxnError                           what all have in common
     ├─ KeyIsLocked                    another transaction holds it: wait, or resolve the lock; then again
     ├─ WriteConflict                  another transaction has committed meanwhile: begin anew
     ├─ AlreadyExists                  an insert found a value
     ├─ AssertionFailed                what the client was sure of is not so: a bug somewhere, nothing was written
     ├─ Deadlock                       waiting for the lock would close a cycle, which is named
     ├─ TxnLockNotFound                commit found no lock: rolled back by others, begin anew
     ├─ CommitTsExpired                commit is below what readers were promised: commit again, later
     ├─ AlreadyCommitted               rollback came too late
     ├─ TxnNotFound                    there is no trace of the transaction (yet)
     ├─ PrimaryMismatch                the key asked about is not the primary: its lock tells which one is
     ├─ PessimisticLockNotFound        a lock that prewrite counted on is lost: begin anew
     ├─ PessimisticLockRolledBack      the transaction is rolled back and can't lock any more
     ├─ LockKindMismatch               a lock of the same transaction, of the wrong kind: a client mixes two protocols
     ├─ LockIfExistsInvalid            "lock only if it exists" needs the values to be returned
     ├─ TimestampFromFuture            no scheduler has handed that out
     └─ SnapshotTooOld                 garbage collection has passed the transaction: begin anew

They are expected outcomes: evaluators return them inside of results, and raise them between functions of this package
only (wrapped in `TxnErrorRaised`). `is_retryable` says whether the *transaction* may succeed when it is begun anew, or
the command when it is sent again; the text names key and timestamps, and what to do.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec

from pytinykv.transaction.deadlock import Wait
from pytinykv.transaction.records import NO_TS, Lock
from pytinykv.wire.keys import describe_key
from pytinykv.wire.timestamp import Timestamp


class ConflictReason(IntEnum):
    """Which check found a write conflict; the numbers of kvrpcpb.WriteConflict.Reason."""

    UNKNOWN = 0
    OPTIMISTIC = 1
    PESSIMISTIC_RETRY = 2
    """Another transaction committed above the `for_update_ts`: lock again with a newer one. The transaction goes on."""
    SELF_ROLLED_BACK = 3
    RC_CHECK_TS = 4
    LAZY_UNIQUENESS_CHECK = 5
    """A pessimistic transaction that left the check of this key to its prewrite."""
    NOT_LOCKED_KEY_CONFLICT = 6


class Assertion(IntEnum):
    """What a client is sure of; the numbers of kvrpcpb.Assertion."""

    NONE = 0
    EXISTS = 1
    NOT_EXISTS = 2


class TxnError(msgspec.Struct, frozen=True, kw_only=True):
    """What all have in common: the user's key, and the transaction that failed on it (0: none)."""

    key: bytes
    start_ts: Timestamp = NO_TS
    is_retryable: ClassVar[bool] = False

    def describe(self) -> str:
        """Say what happened, to what, and what to do."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Return the text for clients; foreign ones know some of these errors by the name at its beginning."""
        return f"{type(self).__name__}: {self.describe()}"

    def _where(self) -> str:
        return f"key {describe_key(self.key)}, transaction {self.start_ts}"


class KeyIsLocked(TxnError, frozen=True, kw_only=True):
    """Another transaction's lock is in the way. `start_ts` is that of the reader or writer that met it, or 0."""

    lock: Lock
    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        return (
            f"key {describe_key(self.key)} is locked by transaction {self.lock.start_ts} with primary "
            f"{describe_key(self.lock.primary)}; wait {self.lock.ttl_ms} ms from its start, or resolve the lock"
        )


class WriteConflict(TxnError, frozen=True, kw_only=True):
    """Another transaction has written the key after this one's snapshot; or this one is rolled back already."""

    conflict_start_ts: Timestamp
    conflict_commit_ts: Timestamp
    """0: the conflict is with a lock (RC_CHECK_TS only)."""
    primary: bytes
    reason: ConflictReason
    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        return (
            f"{self._where()}: transaction {self.conflict_start_ts} has committed at {self.conflict_commit_ts} "
            f"({self.reason.name.lower()}); begin anew from a new snapshot"
        )


class AlreadyExists(TxnError, frozen=True, kw_only=True):
    """An insert, or a check that a key does not exist, has found a value."""

    existing_start_ts: Timestamp = NO_TS

    def describe(self) -> str:
        return f"{self._where()}: the key has a value already, written by transaction {self.existing_start_ts}"


class AssertionFailed(TxnError, frozen=True, kw_only=True):
    """The client has asserted that the key exists, or does not, and it is the other way round."""

    assertion: Assertion
    existing_start_ts: Timestamp
    """The newest put or delete, 0 for none."""
    existing_commit_ts: Timestamp

    def describe(self) -> str:
        return f"{self._where()}: asserted {self.assertion.name}, found the version of {self.existing_commit_ts}"


class Deadlock(TxnError, frozen=True, kw_only=True):
    """Waiting for the lock on `key` would close a cycle of transactions, each waiting for the next.

    `wait_chain` is that cycle, in order; its last wait is the one that is refused.
    """

    lock_ts: Timestamp
    """The transaction that holds the lock on `key`."""
    deadlock_key: bytes = b""
    """The key on which the cycle closes: `start_ts` holds it, and another one of the cycle waits for it."""
    deadlock_key_hash: int = 0
    wait_chain: tuple[Wait, ...] = ()
    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        cycle = ", ".join(
            f"{wait.start_ts} waits for {wait.lock_ts} on {describe_key(wait.key)}" for wait in self.wait_chain
        )
        return f"{self._where()}: deadlock with transaction {self.lock_ts} ({cycle}); roll back and begin anew"


class TxnLockNotFound(TxnError, frozen=True, kw_only=True):
    """Commit found neither the lock nor that it is committed: the transaction was rolled back."""

    commit_ts: Timestamp
    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        return f"{self._where()}: it was rolled back before its commit at {self.commit_ts}; begin anew"


class CommitTsExpired(TxnError, frozen=True, kw_only=True):
    """Readers were promised that the transaction commits at `min_commit_ts` or later: get a new timestamp, commit again."""

    commit_ts: Timestamp
    min_commit_ts: Timestamp
    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        return (
            f"{self._where()}: commit at {self.commit_ts} is below {self.min_commit_ts}; commit with a newer timestamp"
        )


class AlreadyCommitted(TxnError, frozen=True, kw_only=True):
    """A rollback came after the commit, which stands."""

    commit_ts: Timestamp

    def describe(self) -> str:
        return f"{self._where()}: committed at {self.commit_ts}, which can't be rolled back"


class TxnNotFound(TxnError, frozen=True, kw_only=True):
    """There is neither a lock nor a record of the transaction at its primary: not there yet, or collected."""

    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        return f"{self._where()}: no lock and no record; wait for its prewrite, or roll it back once it has expired"


class PrimaryMismatch(TxnError, frozen=True, kw_only=True):
    """The transaction's status was asked at a key that is not its primary; `lock.primary` is."""

    lock: Lock

    def describe(self) -> str:
        return f"{self._where()}: the primary is {describe_key(self.lock.primary)}; ask there"


class LockMissing(IntEnum):
    """How a pessimistic lock was missed."""

    OTHER_TRANSACTION = 1
    """Another transaction's lock stands there."""
    CHANGED = 2
    """It is gone, and the key was written since."""
    FOR_UPDATE_TS = 3
    """It is there with another `for_update_ts` than the client knows of: the one that it got was lost in between."""
    NOT_LOCKED_KEY_CONFLICT = 4
    """The key was never locked, and another one has committed after the transaction's `for_update_ts`."""


class PessimisticLockNotFound(TxnError, frozen=True, kw_only=True):
    """A pessimistic transaction's prewrite can't rely on the lock it should have."""

    reason: LockMissing
    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        return f"{self._where()}: the lock is lost ({self.reason.name.lower()}); begin anew"


class PessimisticLockRolledBack(TxnError, frozen=True, kw_only=True):
    """The transaction is rolled back at this key, so it may lock it no more."""

    is_retryable: ClassVar[bool] = True

    def describe(self) -> str:
        return f"{self._where()}: the transaction was rolled back; begin anew"


class LockKindMismatch(TxnError, frozen=True, kw_only=True):
    """The transaction's own lock has the wrong kind: prewritten without being pessimistic, or locked after its prewrite."""

    found_pessimistic: bool

    def describe(self) -> str:
        found = "a pessimistic lock" if self.found_pessimistic else "a prewritten lock"
        return f"{self._where()}: there is {found} of it already; one transaction must not mix both protocols"


class LockIfExistsInvalid(TxnError, frozen=True, kw_only=True):
    """`lock_only_if_exists` without `return_values`: the client could not tell what was locked."""

    def describe(self) -> str:
        return f"{self._where()}: lock_only_if_exists needs return_values"


class SnapshotTooOld(TxnError, frozen=True, kw_only=True):
    """Garbage collection has passed `start_ts`: versions that it should see, or conflicts that it should meet, may be
    gone.
    """

    safe_point: Timestamp
    is_retryable: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        return (
            f"snapshot too old: {self._where()}; garbage was collected up to {self.safe_point}; "
            "begin anew, or let old versions live longer"
        )


class TimestampFromFuture(TxnError, frozen=True, kw_only=True):
    """A timestamp that the scheduler can't have handed out yet. `start_ts` is that one; `key` is empty."""

    limit: Timestamp

    def describe(self) -> str:
        return f"timestamp {self.start_ts} is from the future, above {self.limit}: take timestamps from the scheduler"


class TxnErrorRaised(Exception):
    """Carries a key error to the function of this package that turns it into a result."""

    def __init__(self, error: TxnError) -> None:
        super().__init__(error)
        self.error = error

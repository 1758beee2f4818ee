"""What clients ask of the transactional data of one region: one immutable record per command.

    reads     Get  BatchGet  Scan  ScanLock  MvccGetByKey  MvccGetByStartTs            need no latch, change nothing
    writes    Prewrite  Commit  BatchRollback  Cleanup  CheckTxnStatus  TxnHeartBeat
              PessimisticLock  PessimisticRollback  CheckSecondaryLocks  ResolveLock   under latches, see `latch_keys`
    ranges    Gc  DeleteRange                                                          in slices, without latches

All keys are the users' own, not encoded; an empty end of a range means that there is none. Timestamps are plain integers,
0 where one is not given. Enumerations have the numbers of the protocol (kvrpcpb), so that a server need not translate.

A command is asked of one region: the code that makes it from a request has checked that its keys lie there, and has clipped
ranges to the region. It may come twice, late, or after the transaction's fate was decided; every evaluator is written for
that.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from pytinykv.transaction.errors import Assertion
from pytinykv.transaction.records import NO_TS
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp


class Isolation(IntEnum):
    """How reads treat locks; the numbers of kvrpcpb.IsolationLevel."""

    SI = 0
    """Snapshot isolation: a lock that may be committed below the read's timestamp is in the way."""
    RC = 1
    """Read committed: locks are ignored."""
    RC_CHECK_TS = 2
    """Read committed, if nothing newer than the timestamp is there; otherwise a write conflict."""


class ReadView(msgspec.Struct, frozen=True):
    """At which timestamp a read looks, and past which locks."""

    version: Timestamp = MAX_TIMESTAMP
    """The newest versions at or below it are seen. The largest number: the newest ones there are."""
    isolation: Isolation = Isolation.SI
    resolved_locks: frozenset[Timestamp] = frozenset()
    """Transactions whose locks are not in the way: rolled back, or certain to commit above `version`."""
    committed_locks: frozenset[Timestamp] = frozenset()
    """Transactions whose locks are read as if they were committed: the client knows that they are, below `version`."""


# --- reads --------------------------------------------------------------------------------------------------------


class Get(msgspec.Struct, frozen=True):
    """Read one key. Answered with a `GetResult`, or a `Failure` with one KeyIsLocked."""

    key: bytes
    view: ReadView = ReadView()


class BatchGet(msgspec.Struct, frozen=True):
    """Read some keys. Answered with a `PairsResult` in the order of the keys, without those that have no value."""

    keys: tuple[bytes, ...]
    view: ReadView = ReadView()


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """Read the pairs with start <= key < end, ascending, or descending with `reverse`. Answered with a `PairsResult`.

    The bounds are the same for both directions (on the wire a reverse scan has them the other way round).
    """

    start: bytes = b""
    end: bytes = b""
    limit: int
    """Most pairs to return, those with an error included. 0: none."""
    reverse: bool = False
    key_only: bool = False
    """Return empty values, and don't read those in `default`."""
    view: ReadView = ReadView()


class ScanLock(msgspec.Struct, frozen=True, kw_only=True):
    """List locks of transactions that began at or before `max_ts`, in key order. Answered with a `LocksResult`.

    Before it is served, `max_ts` must be noted as read (`ConcurrencyManager.note_read`), so that no transaction commits
    below it that the list does not show. Locks in memory count (`ConcurrencyManager.locks_in_range`).
    """

    max_ts: Timestamp
    start: bytes = b""
    end: bytes = b""
    limit: int = 0
    """0: all."""


class MvccGetByKey(msgspec.Struct, frozen=True):
    """List every version, value and lock of a key. Answered with an `MvccInfo`."""

    key: bytes


class MvccGetByStartTs(msgspec.Struct, frozen=True):
    """Find a key that a transaction has locked or written, and list it. Answered with an `MvccInfo`, or None.

    Reads the whole range: for people who look for a mistake, not for programs.
    """

    start_ts: Timestamp
    start: bytes = b""
    end: bytes = b""


# --- prewrite and what follows ------------------------------------------------------------------------------------


class MutationOp(IntEnum):
    """What a transaction does to a key; the numbers of kvrpcpb.Op."""

    PUT = 0
    DELETE = 1
    LOCK = 2
    """Nothing, but no other transaction may write it meanwhile."""
    INSERT = 4
    """Put, and fail if the key has a value."""
    CHECK_NOT_EXISTS = 6
    """Fail if the key has a value; no lock. For optimistic transactions only."""


class PessimisticAction(IntEnum):
    """How the prewrite of a pessimistic transaction checks a key; the numbers of kvrpcpb."""

    SKIP_CHECK = 0
    """The key was not locked before."""
    CHECK_LOCK = 1
    """The key was locked, and must be still."""
    CHECK_CONSTRAINT = 2
    """The key was not locked; do now what locking would have done."""


class Mutation(msgspec.Struct, frozen=True):
    """One key of a prewrite."""

    op: MutationOp
    key: bytes
    value: bytes = b""
    assertion: Assertion = Assertion.NONE
    action: PessimisticAction = PessimisticAction.SKIP_CHECK
    """Meaningless in optimistic transactions."""
    expected_for_update_ts: Timestamp = NO_TS
    """Not 0: the pessimistic lock must have this `for_update_ts`, or it is not the one that the client got."""


class AssertionLevel(IntEnum):
    """Which assertions are checked; the numbers of kvrpcpb.AssertionLevel."""

    OFF = 0
    FAST = 1
    """Those that cost no read."""
    STRICT = 2


class Prewrite(msgspec.Struct, frozen=True, kw_only=True):
    """Lock keys and write their values down, so that the transaction can be committed (Percolator, 2.2).

    Answered with a `PrewriteResult`, or a `Failure`; with several errors, all of them are KeyIsLocked. After a failure
    nothing is locked that was not before.
    """

    mutations: tuple[Mutation, ...]
    primary: bytes
    start_ts: Timestamp
    lock_ttl_ms: int
    for_update_ts: Timestamp = NO_TS
    """Not 0: the transaction is pessimistic."""
    min_commit_ts: Timestamp = NO_TS
    txn_size: int = 0
    secondaries: tuple[bytes, ...] | None = None
    """Not None: async commit is wanted. All keys but the primary if the primary is among the mutations, empty otherwise."""
    try_one_pc: bool = False
    """These are all mutations of the transaction: commit them at once if that is possible."""
    max_commit_ts: Timestamp = NO_TS
    """Not 0: async and one-phase commit must not come to a commit timestamp above this; they become two-phase."""
    skip_constraint_check: bool = False
    """The client knows that no mutation conflicts. Ignored: a check costs little, and being wrong costs data."""
    assertion_level: AssertionLevel = AssertionLevel.OFF
    source: int = 0

    def as_two_phase(self) -> Prewrite:
        """Return the same without async and one-phase commit, for a region whose largest read timestamp is not known yet.

        Its answer has neither timestamp, by which clients know.
        """
        if self.secondaries is None and not self.try_one_pc:
            return self
        return msgspec.structs.replace(self, secondaries=None, try_one_pc=False)


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """Make writes of a transaction visible. Answered with a `CommitResult`, or a `Failure` with one error."""

    keys: tuple[bytes, ...]
    start_ts: Timestamp
    commit_ts: Timestamp


class BatchRollback(msgspec.Struct, frozen=True, kw_only=True):
    """Roll a transaction back at keys, whether or not it has locked them. Answered with `Done` or a `Failure`."""

    keys: tuple[bytes, ...]
    start_ts: Timestamp


class Cleanup(msgspec.Struct, frozen=True, kw_only=True):
    """Roll a transaction back at one key, usually its primary, if its time to live is over. Answered with a
    `CleanupResult`.

    A `Failure` says KeyIsLocked: it is alive.
    """

    key: bytes
    start_ts: Timestamp
    current_ts: Timestamp = NO_TS
    """0: whatever its time to live."""


class CheckTxnStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Say what became of a transaction, by its primary; roll it back if it has expired. Answered with a `TxnStatus`."""

    primary: bytes
    lock_ts: Timestamp
    """The transaction's start_ts."""
    caller_start_ts: Timestamp = NO_TS
    """The read that is blocked: `min_commit_ts` is pushed above it, so that it need not wait. 0: don't push. The largest
    number: a read of the newest state, which passes without."""
    current_ts: Timestamp = NO_TS
    """Now, more or less."""
    rollback_if_not_exist: bool = False
    """If nothing is known of it: True, write a rollback so that it never will be; False, TxnNotFound."""
    force_sync_commit: bool = False
    """Treat a lock of async commit as one of two-phase commit: the client has seen that the transaction fell back."""
    resolving_pessimistic_lock: bool = False
    """The caller was stopped by a pessimistic lock, so the transaction may be running and may yet choose another
    primary."""
    verify_is_primary: bool = False


class TxnHeartBeat(msgspec.Struct, frozen=True, kw_only=True):
    """Prolong a transaction's time to live, by its primary lock. Answered with a `HeartBeatResult`, or TxnNotFound."""

    primary: bytes
    start_ts: Timestamp
    advise_ttl_ms: int


class CheckSecondaryLocks(msgspec.Struct, frozen=True, kw_only=True):
    """Say whether the secondaries of a transaction with async commit are locked; if one is not, see to it that it never
    will.

    Answered with a `SecondaryLocks`.
    """

    keys: tuple[bytes, ...]
    start_ts: Timestamp


class ResolveLock(msgspec.Struct, frozen=True, kw_only=True):
    """Commit or roll back locks of transactions whose fate is known. Answered with `Done`.

    With `keys`, at these. Without, at all keys of the range that hold such a lock: `resolve.next_portion` makes commands
    with `keys` of it, one after the other.
    """

    statuses: dict[Timestamp, Timestamp]
    """start_ts → commit_ts, 0: rolled back."""
    keys: tuple[bytes, ...] | None = None
    start: bytes = b""
    end: bytes = b""


# --- pessimistic --------------------------------------------------------------------------------------------------


class LockRequest(msgspec.Struct, frozen=True):
    """One key of a `PessimisticLock`."""

    key: bytes
    should_not_exist: bool = False


class PessimisticLock(msgspec.Struct, frozen=True, kw_only=True):
    """Lock keys before the transaction is ready to commit. Answered with a `PessimisticLockResult` or a `Failure`.

    All keys or none: after a failure, or when it has to wait, none is locked. A KeyIsLocked means: wait for that lock as
    `wait_timeout_ms` says, then evaluate the command again.
    """

    keys: tuple[LockRequest, ...]
    primary: bytes
    start_ts: Timestamp
    for_update_ts: Timestamp
    """The snapshot of the statement that needs the lock; what was committed above it is a conflict."""
    lock_ttl_ms: int
    is_first_lock: bool = False
    """The transaction holds no other lock yet, so it can't be part of a deadlock."""
    wait_timeout_ms: int = 0
    """Negative: don't wait. 0: the server's own choice."""
    return_values: bool = False
    check_existence: bool = False
    min_commit_ts: Timestamp = NO_TS
    lock_only_if_exists: bool = False
    allow_lock_with_conflict: bool = False
    """Lock although another one has committed above `for_update_ts`, and return what it wrote. For one key."""


class PessimisticRollback(msgspec.Struct, frozen=True, kw_only=True):
    """Take back pessimistic locks up to a `for_update_ts`. Leaves no record: the transaction goes on. Answered with
    `Done`.
    """

    keys: tuple[bytes, ...]
    start_ts: Timestamp
    for_update_ts: Timestamp


# --- ranges -------------------------------------------------------------------------------------------------------


class Gc(msgspec.Struct, frozen=True, kw_only=True):
    """Delete the versions in a range that no reader at or above the safe point can see; see `gc.collect`."""

    safe_point: Timestamp
    start: bytes = b""
    end: bytes = b""


class DeleteRange(msgspec.Struct, frozen=True):
    """Delete all versions, values and locks of a range, even under snapshots that read them. Answered with `Done`."""

    start: bytes
    end: bytes


WriteCommand = (
    Prewrite
    | Commit
    | BatchRollback
    | Cleanup
    | CheckTxnStatus
    | TxnHeartBeat
    | CheckSecondaryLocks
    | ResolveLock
    | PessimisticLock
    | PessimisticRollback
)
"""What is evaluated under latches."""


def latch_keys(command: WriteCommand) -> tuple[bytes, ...]:
    """Return the keys that no other command may be evaluated for until this one is applied.

    A ResolveLock without keys has none: its portions have.
    """
    match command:
        case Prewrite():
            return tuple(mutation.key for mutation in command.mutations)
        case PessimisticLock():
            return tuple(request.key for request in command.keys)
        case Cleanup():
            return (command.key,)
        case CheckTxnStatus() | TxnHeartBeat():
            return (command.primary,)
        case _:
            return command.keys or ()

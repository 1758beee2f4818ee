"""What the modules of this package pass to each other: locks that stores tell of, views, writes, a transaction's state.

ForeignLock     another transaction's lock, as a store has told of it
SnapshotView    a snapshot: its timestamp, and the transactions whose locks it may pass
BufferedWrite   what a transaction does to a key
Progress        how far a transaction is
Txn             what the cluster has to know of a transaction: identity, primary, the locks it holds
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

from pytinykv.wire.keys import describe_key
from pytinykv.wire.pb import kvrpcpb_pb2
from pytinykv.wire.timestamp import Timestamp, physical_ms

PUT = kvrpcpb_pb2.Put
DELETE = kvrpcpb_pb2.Del
LOCK = kvrpcpb_pb2.Lock
INSERT = kvrpcpb_pb2.Insert
CHECK_NOT_EXISTS = kvrpcpb_pb2.CheckNotExists
PESSIMISTIC_LOCK = kvrpcpb_pb2.PessimisticLock


class ForeignLock(NamedTuple):
    """A lock that stands in the way."""

    key: bytes
    primary: bytes
    start_ts: int
    """Its transaction."""
    ttl_ms: int = 0
    """It may be removed by others so long after `start_ts`, by the cluster's timestamps."""
    txn_size: int = 1
    """Keys of its transaction, as far as the owner knew."""
    op: Any = kvrpcpb_pb2.Put
    """What its transaction does to the key."""
    for_update_ts: int = 0
    """Of a pessimistic transaction: when the lock was asked for."""
    use_async_commit: bool = False
    min_commit_ts: int = 0
    secondaries: tuple[bytes, ...] = ()
    """All other keys of the transaction; on the primary of an asynchronous commit only."""

    @classmethod
    def from_pb(cls, info: kvrpcpb_pb2.LockInfo) -> ForeignLock:
        """Take a lock over from a store's answer."""
        return cls(
            key=info.key,
            primary=info.primary_lock,
            start_ts=info.lock_version,
            ttl_ms=info.lock_ttl,
            txn_size=info.txn_size,
            op=info.lock_type,
            for_update_ts=info.lock_for_update_ts,
            use_async_commit=info.use_async_commit,
            min_commit_ts=info.min_commit_ts,
            secondaries=tuple(info.secondaries),
        )

    @property
    def is_pessimistic(self) -> bool:
        """Whether its transaction has not said yet what it does to the key."""
        return bool(self.op == PESSIMISTIC_LOCK)

    def is_expired(self, current_ts: int) -> bool:
        """Whether its time to live is over at a timestamp of the cluster."""
        return physical_ms(Timestamp(self.start_ts)) + self.ttl_ms <= physical_ms(Timestamp(current_ts))

    def __str__(self) -> str:
        return f"the lock of transaction {self.start_ts} on {describe_key(self.key)}"


class SnapshotView:
    """A snapshot, and what was learnt about the locks in its way. Grows while it is used."""

    __slots__ = ("committed", "passed", "ts")

    def __init__(self, ts: int) -> None:
        self.ts = ts
        self.passed: set[int] = set()
        """Transactions whose locks it need not see: rolled back, or certain to commit after `ts`."""
        self.committed: set[int] = set()
        """Transactions that have committed at or before `ts`: their locks are read as the values they will be."""

    @property
    def knows(self) -> bool:
        """Whether any lock may be passed."""
        return bool(self.passed or self.committed)

    def fill(self, context: kvrpcpb_pb2.Context) -> None:
        """Tell a store which locks may be passed."""
        context.resolved_locks.extend(sorted(self.passed))
        context.committed_locks.extend(sorted(self.committed))


class BufferedWrite(NamedTuple):
    """What a transaction does to a key."""

    key: bytes
    op: Any
    """One of the constants of this module."""
    value: bytes = b""

    @property
    def size(self) -> int:
        """Bytes in a request."""
        return len(self.key) + len(self.value)


class Phase(Enum):
    """How far a transaction is; the value says it in a message."""

    ACTIVE = "open"
    COMMITTING = "being committed"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    FAILED = "ended by an error of its commit"
    UNDETERMINED = "of unknown fate"
    ABANDONED = "closed with its client"


class Progress:
    """How far a transaction is, for its parts to ask.

    They hold this and not the transaction: with a cycle of the two, each transaction would stay in memory until the garbage
    collector comes by.
    """

    __slots__ = ("phase", "start_ts")

    def __init__(self) -> None:
        self.phase = Phase.ACTIVE
        """Moved by the transaction, as its module draws it, only ever forward."""
        self.start_ts: int | None = None
        """Set once, when it has begun."""

    def why_closed(self) -> str:
        """Return what a call is told that comes too late."""
        begun = "" if self.start_ts is None else f" that began at {self.start_ts}"
        return f"the transaction{begun} is {self.phase.value}; begin a new one"


class Txn:
    """A transaction as the cluster has to know it. Belongs to the loop, once it has begun."""

    __slots__ = (
        "begun_at",
        "for_update_ts",
        "heartbeat",
        "is_pessimistic",
        "locked",
        "lost",
        "primary",
        "start_ts",
        "view",
    )

    def __init__(self, view: SnapshotView, *, begun_at: float, is_pessimistic: bool) -> None:
        self.view = view
        """What it reads."""
        self.start_ts = view.ts
        """Identity of the transaction, and the timestamp of its snapshot."""
        self.begun_at = begun_at
        """Loop time when `start_ts` was fetched. Locks live so and so long after `start_ts`."""
        self.is_pessimistic = is_pessimistic
        self.primary: bytes | None = None
        """The key whose lock decides, once it is locked. Never changed while locks stand."""
        self.locked: dict[bytes, int] = {}
        """Pessimistic locks held: key and the `for_update_ts` each was taken at."""
        self.for_update_ts = 0
        """The greatest of them."""
        self.heartbeat: Any = None
        """What keeps the locks alive, while there are any."""
        self.lost: str | None = None
        """Why the locks are gone, once the heartbeat has found out."""

    def add_locks(self, keys: Iterable[bytes], for_update_ts: int) -> None:
        """Note locks that stand now."""
        for key in keys:
            self.locked[key] = max(for_update_ts, self.locked.get(key, 0))
        self.for_update_ts = max(self.for_update_ts, for_update_ts)

    def ttl_ms(self, now: float, ttl_s: float) -> int:
        """Return the time to live, counted from `start_ts`, of a lock that is to live `ttl_s` from `now` (loop time) on."""
        return int((now - self.begun_at + ttl_s) * 1000)

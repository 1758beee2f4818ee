"""Looking at versions and locks, and collecting old versions by hand: for operators and tests.

Garbage is what no snapshot at or after the safe point can see. Collecting it by hand is what the cluster does by itself all
the time: resolve every lock older than the new safe point, then raise it; the stores do the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from pytinykv.client.errors import InvalidArgumentError, SnapshotTooOldError
from pytinykv.client.executor import Executor
from pytinykv.client.key_space import KeyRange
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.txn.read_commands import MvccOfKey
from pytinykv.client.txn.records import DELETE, INSERT, LOCK, PESSIMISTIC_LOCK, PUT, ForeignLock, SnapshotView, Txn
from pytinykv.client.txn.resolve_commands import ScanLocks
from pytinykv.client.txn.resolver import Resolver
from pytinykv.wire.keys import next_key
from pytinykv.wire.pb import kvrpcpb_pb2

PAGE_LOCKS = 256
"""Locks asked for at a time."""
_KINDS = {
    PUT: "put",
    DELETE: "delete",
    LOCK: "lock",
    INSERT: "put",
    PESSIMISTIC_LOCK: "pessimistic",
    kvrpcpb_pb2.Rollback: "rollback",
}


class KeyVersion(NamedTuple):
    """What one transaction has done to a key."""

    kind: str
    """put, delete, lock (nothing was written) or rollback."""
    start_ts: int
    commit_ts: int
    """Of a rollback: its start timestamp again."""
    value: bytes | None
    """Of a put."""
    hides_rollback: bool
    """Whether the record also says that the transaction which began at `commit_ts` was rolled back."""


class KeyHistory(NamedTuple):
    """Every version and the lock of a key."""

    key: bytes
    lock: ForeignLock | None
    versions: Sequence[KeyVersion]
    """The newest first."""


def kind_of(lock: ForeignLock) -> str:
    """Return in a word what a lock is for: put, delete, lock or pessimistic."""
    return _KINDS.get(lock.op, str(lock.op))


class Inspector:
    """What lies beneath the values: for tools."""

    def __init__(self, executor: Executor, scheduler: SchedulerClient, resolver: Resolver) -> None:
        self._executor = executor
        self._scheduler = scheduler
        self._resolver = resolver

    async def history(self, key: bytes, timeout_s: float | None = None) -> KeyHistory:
        """Return every version of a key that was not collected, and its lock."""
        info = await self._executor.execute(MvccOfKey(key), self._executor.deadline(timeout_s))
        values = {value.start_ts: value.value for value in info.values}
        versions = [
            KeyVersion(
                kind=_KINDS.get(write.type, str(write.type)),
                start_ts=write.start_ts,
                commit_ts=write.commit_ts,
                value=(values.get(write.start_ts) or write.short_value) if write.type == PUT else None,
                hides_rollback=write.has_overlapped_rollback,
            )
            for write in info.writes
        ]
        lock = _lock_of(key, info)
        if lock is not None:  # the store's history lacks a part of what it tells of locks
            told = [one async for one in self.locks(KeyRange(key, next_key(key)), lock.start_ts, limit=1)]
            lock = next((one for one in told if one.start_ts == lock.start_ts), lock)
        return KeyHistory(key, lock, versions)

    async def locks(
        self, range_: KeyRange, max_ts: int, *, limit: int | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[ForeignLock]:
        """Iterate over the locks of a range whose transactions began at or before `max_ts`, in the order of keys."""
        left: KeyRange | None = range_
        found = 0
        while left is not None and (limit is None or found < limit):
            page_size = PAGE_LOCKS if limit is None else min(PAGE_LOCKS, limit - found)
            command = ScanLocks(left, max_ts, page_size)
            page = await self._executor.execute(command, self._executor.deadline(timeout_s))
            for lock in page:
                found += 1
                yield lock
            is_last = len(page) < page_size
            left = left.behind(command.covered) if is_last else KeyRange(next_key(page[-1].key), left.end)

    async def safe_point(self, timeout_s: float | None = None) -> int:
        """Return the timestamp before which versions may have been collected; 0 if none were."""
        return await self._scheduler.get_gc_safe_point(timeout_s)

    async def hold(self, service: str, ts: int, ttl_s: int, timeout_s: float | None = None) -> None:
        """Keep the versions that a snapshot at `ts` needs for `ttl_s` seconds, for a service; 0: let go of them.

        Raises `SnapshotTooOldError` if they may be gone already.
        """
        lowest = await self._scheduler.hold_gc_safe_point(service, ts, ttl_s, timeout_s)
        if ttl_s > 0 and lowest > ts:
            raise SnapshotTooOldError(
                f"versions of timestamp {ts} may have been collected: the cluster keeps those since {lowest}"
            )

    async def collect(self, safe_point: int, timeout_s: float | None = None) -> int:
        """Resolve all locks older than `safe_point`, waiting for their transactions, and raise the cluster's to it.

        Returns the safe point in force, which is a lower one if a service holds it back. Raises `InvalidArgumentError` for
        one in the future, `LockTimeoutError` if a transaction that is older does not end.
        """
        now = await self._scheduler.timestamp(timeout_s)
        if not 0 < safe_point <= now:
            raise InvalidArgumentError(
                f"the safe point has to be a timestamp of the past, is {safe_point} (now: {now})"
            )
        deadline = self._executor.deadline(timeout_s)
        attempts = self._executor.begin(deadline)
        me = Txn(SnapshotView(now), begun_at=self._executor.origin.loop.time(), is_pessimistic=True)
        async for lock in self.locks(KeyRange(b"", b""), safe_point, timeout_s=timeout_s):
            rest = [lock]
            while rest:
                await self._resolver.clear_for_write(rest, me, attempts, pause=True)
                only = KeyRange(lock.key, next_key(lock.key))
                rest = [left async for left in self.locks(only, safe_point, timeout_s=timeout_s)]
        return await self._scheduler.update_gc_safe_point(safe_point, timeout_s)


def _lock_of(key: bytes, info: kvrpcpb_pb2.MvccInfo) -> ForeignLock | None:
    if not info.HasField("lock"):
        return None
    lock = info.lock
    return ForeignLock(
        key=key,
        primary=lock.primary,
        start_ts=lock.start_ts,
        ttl_ms=lock.ttl,
        txn_size=lock.txn_size,
        op=lock.type,
        for_update_ts=lock.for_update_ts,
        use_async_commit=lock.use_async_commit,
        secondaries=tuple(lock.secondaries),
    )

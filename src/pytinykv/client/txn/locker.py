"""Pessimistic locks: taken key by key while the transaction runs, so that its commit can't fail for a conflict.

    newest state       lock at a fresh timestamp (`for_update_ts`); a commit in between is no conflict: lock again, later
    at the snapshot    lock at `start_ts`; a commit in between is a conflict

A store lets a request wait in its queue for `WAIT_MS`, and answers then that the key is still locked: the client looks
whether the holder is alive, and asks again until the deadline. Waiters are served in the order of their start.

Invariants

1. A call takes all of its locks or none: when it fails, those that it has taken are released.
2. The primary's lock stands before any other. It becomes the transaction's primary only when the call has succeeded.
3. What a failed release leaves behind runs out: no heartbeat names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from pytinykv.client.attempts import Attempts
from pytinykv.client.batches import BatchOperation, run_batch
from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    DeadlineExceededError,
    LockTimeoutError,
    TransactionError,
    UndeterminedError,
    WriteConflictError,
)
from pytinykv.client.txn.lock_commands import LockCall, Locked, LockKeys, UnlockKeys
from pytinykv.client.txn.parts import ClusterParts, TxnCall
from pytinykv.client.txn.records import ForeignLock, Txn
from pytinykv.client.txn.resolver import run_keys
from pytinykv.wire.timestamp import MAX_TIMESTAMP

WAIT_MS: Final = 1000
"""For so long a store lets a lock request wait. Shorter than an attempt may take, or it would count as unanswered."""
WAITED_SHARE: Final = 0.5
"""A round that took so much of that has waited at the store, and need not pause before it asks again."""
RELEASE_TIMEOUT_S: Final = 5.0


class Locker:
    """Takes and releases the pessimistic locks of one client's transactions."""

    def __init__(self, parts: ClusterParts) -> None:
        self._parts = parts
        self._executor = parts.executor

    async def lock(
        self, txn: Txn, keys: Sequence[bytes], deadline: float, *, at_snapshot: bool, must_not_exist: bool, read: bool
    ) -> dict[bytes, bytes | None]:
        """See `TransactionBackend.lock`."""
        call = _LockCall(
            self._parts, txn, keys, deadline, at_snapshot=at_snapshot, must_not_exist=must_not_exist, read=read
        )
        try:
            values = await call.run()
        except BaseException as error:
            # Not those that a later call may take: they are taken at a later timestamp.
            release = partial(self._release, txn, call.asked, call.for_update_ts)
            if isinstance(error, ClientError):
                await self._parts.background.finish(deadline, "release locks", release)
            else:
                self._parts.background.start("release locks", release)
            if isinstance(error, ClientClosedError):  # cut off or not: what it may have locked is released, or runs out
                raise ClientClosedError("the client was closed; the keys are not locked") from error
            if isinstance(error, (UndeterminedError, DeadlineExceededError)):
                raise call.late_error(error) from error
            raise
        if txn.primary is None:
            txn.primary = call.primary
        if txn.heartbeat is None:
            ttl_s = self._executor.config.pessimistic_lock_ttl_s
            txn.heartbeat = self._parts.heartbeat(txn, txn.primary, ttl_s)
        txn.add_locks(keys, call.for_update_ts)
        return values

    async def _release(self, txn: Txn, keys: Sequence[bytes], for_update_ts: int) -> None:
        """Release locks that a failed call may have taken, whatever became of them."""
        await self._unlock(txn, keys, for_update_ts, self._executor.deadline(RELEASE_TIMEOUT_S))

    async def _unlock(self, txn: Txn, keys: Sequence[bytes], for_update_ts: int, deadline: float) -> None:
        """Release locks taken at `for_update_ts` or before. Raises `ClientError` if that can't be done in time."""
        if keys:
            await run_keys(
                self._executor, sorted(keys), lambda items: UnlockKeys(items, txn.start_ts, for_update_ts), deadline
            )

    async def release_all(self, txn: Txn, deadline: float) -> None:
        """Release all locks of a transaction that ends; those that can't be reached in time run out."""
        if txn.heartbeat is not None:
            txn.heartbeat.stop()
        keys = list(txn.locked)
        txn.locked.clear()
        try:
            await self._unlock(txn, keys, MAX_TIMESTAMP, deadline)
        except BaseException as error:
            self._parts.background.start("release locks", self._release, txn, keys, MAX_TIMESTAMP)
            if not isinstance(error, ClientError):
                raise  # cancelled


class _LockCall(TxnCall):
    """One call for locks."""

    def __init__(
        self,
        parts: ClusterParts,
        txn: Txn,
        keys: Sequence[bytes],
        deadline: float,
        *,
        at_snapshot: bool,
        must_not_exist: bool,
        read: bool,
    ) -> None:
        super().__init__(parts, txn, deadline)
        self._keys = keys
        self._at_snapshot = at_snapshot
        self._must_not_exist = must_not_exist
        self._read = read
        self._attempts: Attempts = self._executor.begin(deadline)
        self._values: dict[bytes, bytes | None] = {}
        """What the keys that are locked so far held, where `read` asks for it."""
        self.primary = txn.primary or keys[0]
        self.for_update_ts = 0
        """The greatest timestamp that was locked at."""
        self.asked: list[bytes] = []
        """Keys that were asked for, whose locks may stand."""
        self._met: ForeignLock | None = None
        """A lock that was in the way in the latest round."""

    def late_error(self, error: ClientError) -> ClientError:
        """Return the error of a call whose time is up; `error` is what went wrong last."""
        lock = self._met
        if lock is None:
            return DeadlineExceededError(f"the keys could not be locked in time: {error}")
        return LockTimeoutError(
            f"{lock} stood in the way until the deadline; its transaction is alive, or does not end. None of the keys is "
            "locked now; try again, or give it more time",
            key=lock.key,
            holder_ts=lock.start_ts,
        )

    async def run(self) -> dict[bytes, bytes | None]:
        if self._txn.primary is None:
            await self._lock([self.primary])
            await self._lock([key for key in self._keys if key != self.primary])
        else:
            await self._lock(list(self._keys))
        return self._values

    async def _lock(self, pending: list[bytes]) -> None:
        self.asked += pending
        ts = 0
        while pending:
            ts = ts or await self._for_update_ts()
            self.for_update_ts = max(self.for_update_ts, ts)
            began = self._parts.now()
            results = await self._ask(pending, ts)
            pending = [key for result in results if result.locks or result.error for key in result.keys]
            if await self._deal_with(results, took_s=self._parts.now() - began):
                ts = 0
            pending.sort()

    async def _ask(self, keys: Sequence[bytes], ts: int) -> list[Locked]:
        now = self._parts.now()
        left_ms = int((self._deadline - now) * 1000)
        call = LockCall(
            txn=self._txn,
            primary=self.primary,
            for_update_ts=ts,
            lock_ttl_ms=self._txn.ttl_ms(now, self._executor.config.pessimistic_lock_ttl_s),
            wait_ms=max(1, min(WAIT_MS, left_ms // 2)),  # the answer has to be here in time
            must_not_exist=self._must_not_exist,
            return_values=self._read,
        )
        operation = BatchOperation(keys, _identity, len, lambda items: LockKeys(items, call))
        results = await run_batch(self._executor, operation, self._deadline)
        for result in results:
            self._values.update(zip(result.keys, result.values, strict=False))
        return results

    async def _deal_with(self, results: Sequence[Locked], *, took_s: float) -> bool:
        """Do something about what was met; return whether to lock at a later timestamp. Raises what ends the call."""
        is_late = False
        locks: list[ForeignLock] = []
        for result in results:
            locks += result.locks
            if result.error is not None:
                self._refuse(result.error)
                is_late = True
        self._met = locks[0] if locks else None
        if locks:
            has_waited = took_s * 1000 >= WAIT_MS * WAITED_SHARE
            await self._parts.resolver.clear_for_write(locks, self._txn, self._attempts, pause=not has_waited)
        return is_late

    def _refuse(self, error: TransactionError) -> None:
        """Raise an error, unless it only means that the timestamp was too early."""
        if self._at_snapshot or not isinstance(error, WriteConflictError):
            raise error
        if self._parts.now() >= self._deadline:
            raise DeadlineExceededError(f"no lock in time: others were always first: {error}") from error

    async def _for_update_ts(self) -> int:
        return self._txn.start_ts if self._at_snapshot else await self._timestamp()


def _identity(key: bytes) -> bytes:
    return key

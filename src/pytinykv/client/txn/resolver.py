"""Locks in the way: what became of their transactions, and what follows for who met them (Percolator, section 2.2).

    lock ──► its primary (CheckTxnStatus) ──► committed ───► its locks become values          (ResolveLock)
                    │                    ├──► rolled back ─► its locks go                     (ResolveLock)
                    │                    └──► alive ──► a reader pushes its commit beyond the own snapshot and passes;
                    │                                   a writer waits
                    └── an asynchronous commit that has run out: its secondaries decide       (CheckSecondaryLocks)

Invariants

1. A transaction is only called committed or rolled back after its primary, or all secondaries of an asynchronous commit,
   have said so; that never changes again, so it is remembered.
2. The primary is asked with `rollback_if_not_exist` only once the lock that was met has run out: before that, its owner may
   still be on the way to write the primary.
3. What a reader may pass is written into its view, and only holds for that view's timestamp.
4. A pessimistic lock whose primary is gone is removed itself; its transaction is not called rolled back for that.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from pytinykv.client.attempts import Attempts
from pytinykv.client.batches import BatchOperation, run_batch
from pytinykv.client.commands import BatchCommand
from pytinykv.client.deadlines import EXPIRY_GRAIN_S
from pytinykv.client.errors import (
    ClientError,
    DeadlineExceededError,
    LockTimeoutError,
    SchedulerUnavailableError,
    UndeterminedError,
    WriteConflictError,
)
from pytinykv.client.executor import Executor
from pytinykv.client.key_space import MEMCOMPARABLE
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.txn.background import Background
from pytinykv.client.txn.key_errors import PrimaryMismatchError, TxnNotFoundError
from pytinykv.client.txn.keys_command import KeysCommand
from pytinykv.client.txn.lock_commands import UnlockKeys
from pytinykv.client.txn.records import ForeignLock, SnapshotView, Txn
from pytinykv.client.txn.resolve_commands import (
    CheckSecondaries,
    CheckStatus,
    PrimaryStatus,
    ResolveKeys,
    ResolveRegion,
)
from pytinykv.wire.keys import describe_key
from pytinykv.wire.timestamp import MAX_TIMESTAMP

_log = logging.getLogger(__name__)

KNOWN_MAX = 2048
"""Transactions whose fate is remembered."""
SMALL_TXN_KEYS = 16
"""Locks of transactions with fewer keys are resolved key by key, those of larger ones region by region."""
RESOLVE_TIMEOUT_S = 5.0
"""For what is resolved in the background."""


class Resolver:
    """Finds out about locks in the way of one client's transactions."""

    def __init__(self, executor: Executor, scheduler: SchedulerClient, background: Background) -> None:
        self._executor = executor
        self._scheduler = scheduler
        self._background = background
        self._known: OrderedDict[int, PrimaryStatus] = OrderedDict()
        """What became of transactions that have ended, by start timestamp; the latest last."""

    # --- for who met locks --------------------------------------------------------------------------------------

    async def clear_for_read(self, locks: Sequence[ForeignLock], view: SnapshotView, attempts: Attempts) -> None:
        """Do something about locks in the way of a read; it may be repeated then. Waits a moment if it has to."""
        waiting: ForeignLock | None = None
        by_transaction = _by_transaction(locks)
        current_ts = await self._now(by_transaction, attempts)
        for start_ts, own in by_transaction.items():
            if start_ts in view.passed or start_ts in view.committed:
                waiting = own[0]  # the store does not pass it: it has to be resolved first
            status = await self._status(own[0], attempts, caller_ts=view.ts, current_ts=current_ts)
            if status.ttl_ms:
                if status.pushed:
                    view.passed.add(start_ts)
                else:
                    waiting = own[0]
                continue
            if 0 < status.commit_ts <= view.ts:
                view.committed.add(start_ts)
            else:
                view.passed.add(start_ts)
            if waiting is not None or not self._background.start("resolve locks", self._resolve_later, own, status):
                await self._resolve(own, status, attempts.deadline)
        if waiting is not None:
            await self._wait(waiting, attempts)

    async def clear_for_write(self, locks: Sequence[ForeignLock], txn: Txn, attempts: Attempts, *, pause: bool) -> None:
        """Remove locks in the way of a write whose transactions have ended; wait a moment (if `pause`) for others.

        Raises `WriteConflictError` if an optimistic transaction meets one that began later and is alive: of two that wait
        for each other only the younger one may wait.
        """
        waiting: ForeignLock | None = None
        by_transaction = _by_transaction(locks)
        current_ts = await self._now(by_transaction, attempts)
        for own in by_transaction.values():
            lock = own[0]
            status = await self._status(lock, attempts, caller_ts=0, current_ts=current_ts)
            if not status.ttl_ms:
                await self._resolve(own, status, attempts.deadline)
            elif not txn.is_pessimistic and lock.start_ts > txn.start_ts:
                raise WriteConflictError(
                    f"transaction {lock.start_ts}, which began after this one ({txn.start_ts}), is about to commit "
                    f"{describe_key(lock.key)}; run this one again from a new snapshot",
                    key=lock.key,
                    conflict_ts=lock.start_ts,
                )
            else:
                waiting = lock
        if waiting is not None:
            if pause:
                await self._wait(waiting, attempts)
            else:
                self._refuse_late(waiting, attempts)

    async def resolve_ended(self, locks: Sequence[ForeignLock], timeout_s: float, *, per_transaction_s: float) -> int:
        """Remove locks whose transactions have ended, or have run out; return how many are left. Waits for no transaction.

        One that can't be asked about within `per_transaction_s` is left, as are those for whom `timeout_s` is too short.
        Raises `ClientError` if the scheduler gives no timestamp, and then has done nothing.
        """
        loop = self._executor.origin.loop
        deadline = self._executor.deadline(timeout_s)
        current_ts = await self._scheduler.timestamp(timeout_s)
        left = 0
        for own in _by_transaction(locks).values():
            ends_at = min(deadline, loop.time() + per_transaction_s)
            # A prewritten lock tells more than a pessimistic one: its primary is certain.
            met = min(own, key=attrgetter("is_pessimistic"))
            try:
                if loop.time() >= deadline:
                    left += len(own)
                    continue
                attempts = self._executor.begin(ends_at)
                status = await self._status(met, attempts, caller_ts=0, current_ts=current_ts)
                if status.ttl_ms:
                    left += len(own)
                else:
                    await self._resolve(own, status, ends_at)
            except ClientError as error:
                _log.info("%s is left for now: %s", met, error)
                left += len(own)
        return left

    async def _wait(self, lock: ForeignLock, attempts: Attempts) -> None:
        self._refuse_late(lock, attempts)
        await attempts.backoff.pause()
        self._refuse_late(lock, attempts)

    def _refuse_late(self, lock: ForeignLock, attempts: Attempts) -> None:
        # Of several deadlines that are close together a call may end with the first.
        if self._executor.origin.loop.time() >= attempts.deadline - 2 * EXPIRY_GRAIN_S:
            raise LockTimeoutError(
                f"{lock} stood in the way until the deadline; its transaction is alive, or does not end. Nothing was "
                "committed; run it again, or give it more time",
                key=lock.key,
                holder_ts=lock.start_ts,
            )

    async def _now(self, transactions: Mapping[int, Sequence[ForeignLock]], attempts: Attempts) -> int:
        """Return a timestamp of now for questions about locks, by their transactions; 0 if there are none to ask.

        (Asked with 0 all the same, as one was forgotten meanwhile, a primary says that its transaction is alive.)
        """
        if all(start_ts in self._known for start_ts in transactions):
            return 0
        left_s = attempts.deadline - self._executor.origin.loop.time()
        try:
            return await self._scheduler.timestamp(max(left_s, 0.001))
        except SchedulerUnavailableError:
            # With less than its usual time it had none to answer: the locks have used it up.
            if left_s < self._executor.config.scheduler_timeout_s:
                self._refuse_late(next(iter(transactions.values()))[0], attempts)
            raise

    # --- what became of a transaction ---------------------------------------------------------------------------

    async def _status(self, lock: ForeignLock, attempts: Attempts, *, caller_ts: int, current_ts: int) -> PrimaryStatus:
        """Return what became of the transaction of `lock`; time to live 0 means that it has ended."""
        known = self._known.get(lock.start_ts)
        if known is not None:
            return known
        try:
            status = await self._ask_primary(lock, attempts.deadline, caller_ts=caller_ts, current_ts=current_ts)
            primary = status.lock
            if status.ttl_ms and primary is not None and primary.use_async_commit and primary.is_expired(current_ts):
                status = await self._ask_secondaries(primary, attempts.deadline, current_ts)
        except UndeterminedError as error:
            # Asking rolls back what has run out. Whether it did is nothing to the caller, who only met the lock.
            raise DeadlineExceededError(f"no certain answer in time; it may be repeated: {error}") from error
        if not status.ttl_ms and not status.was_pessimistic:
            self._remember(lock.start_ts, status)
        return status

    def remember(self, start_ts: int, commit_ts: int) -> None:
        """Take that a transaction of this client is committed: its locks may stand for a moment yet."""
        self._remember(start_ts, PrimaryStatus(commit_ts=commit_ts))

    def _remember(self, start_ts: int, status: PrimaryStatus) -> None:
        self._known[start_ts] = status
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    async def _ask_primary(
        self, lock: ForeignLock, deadline: float, *, caller_ts: int, current_ts: int, force_sync: bool = False
    ) -> PrimaryStatus:
        for rollback_missing in (False, True):
            command = CheckStatus(
                lock,
                caller_ts=caller_ts,
                current_ts=current_ts,
                rollback_missing=rollback_missing,
                force_sync=force_sync,
            )
            try:
                return await self._executor.execute(command, deadline)
            except TxnNotFoundError:
                if not lock.is_expired(current_ts):
                    return PrimaryStatus(ttl_ms=max(lock.ttl_ms, 1))  # the primary may not be written yet
            except PrimaryMismatchError:
                if not lock.is_pessimistic:
                    raise
                return PrimaryStatus(was_pessimistic=True)
        return PrimaryStatus(was_pessimistic=lock.is_pessimistic)

    async def _ask_secondaries(self, primary: ForeignLock, deadline: float, current_ts: int) -> PrimaryStatus:
        """Return the fate of an asynchronous commit that has run out, after carrying it out (async commit, recovery)."""
        start_ts = primary.start_ts
        keys = sorted(primary.secondaries)
        found = await run_batch(
            self._executor,
            BatchOperation(keys, _identity, len, lambda items: CheckSecondaries(items, start_ts)),
            deadline,
        )
        commit_ts = max((part.commit_ts for part in found), default=0)
        locks = [lock for part in found for lock in part.locks]
        if not commit_ts and len(locks) == len(keys):
            if not all(lock.use_async_commit for lock in locks):  # its owner had gone over to two phases
                return await self._ask_primary(primary, deadline, caller_ts=0, current_ts=current_ts, force_sync=True)
            commit_ts = max([primary.min_commit_ts, *(lock.min_commit_ts for lock in locks)])
        await self._resolve_keys([primary.key, *keys], start_ts, commit_ts, deadline)
        return PrimaryStatus(commit_ts=commit_ts)

    async def own_fate(self, txn: Txn, primary: bytes, deadline: float) -> int:
        """Return when our own transaction was committed; roll it back, and return 0, if it was not.

        For a transaction that can't go on and does not know whether it was committed. Raises `UndeterminedError` if the
        answer can't be had.
        """
        lock = ForeignLock(primary, primary, txn.start_ts)
        status = await self._ask_primary(lock, deadline, caller_ts=0, current_ts=MAX_TIMESTAMP)
        return status.commit_ts

    # --- carrying it out ----------------------------------------------------------------------------------------

    async def _resolve_later(self, locks: Sequence[ForeignLock], status: PrimaryStatus) -> None:
        await self._resolve(locks, status, self._executor.deadline(RESOLVE_TIMEOUT_S))

    async def _resolve(self, locks: Sequence[ForeignLock], status: PrimaryStatus, deadline: float) -> None:
        """Remove locks of one transaction that has ended; those of a committed one become values."""
        start_ts = locks[0].start_ts
        if pessimistic := [lock for lock in locks if lock.is_pessimistic]:
            for_update_ts = max(lock.for_update_ts for lock in pessimistic) or MAX_TIMESTAMP
            keys = sorted(lock.key for lock in pessimistic)
            await self._run(keys, lambda items: UnlockKeys(items, start_ts, for_update_ts), deadline)
        if status.was_pessimistic:
            return
        keys = sorted(lock.key for lock in locks if not lock.is_pessimistic)
        if max(lock.txn_size for lock in locks) < SMALL_TXN_KEYS:
            await self._resolve_keys(keys, start_ts, status.commit_ts, deadline)
            return
        while keys:
            command = ResolveRegion(keys[0], start_ts, status.commit_ts)
            try:
                await self._executor.execute(command, deadline)
            except UndeterminedError as error:
                raise DeadlineExceededError(f"no certain answer in time; it may be repeated: {error}") from error
            route = command.route
            keys = [key for key in keys[1:] if route is None or not route.contains(MEMCOMPARABLE.to_bound(key))]

    async def _resolve_keys(self, keys: Sequence[bytes], start_ts: int, commit_ts: int, deadline: float) -> None:
        if keys:
            await self._run(sorted(keys), lambda items: ResolveKeys(items, start_ts, commit_ts), deadline)

    async def _run(
        self, keys: Sequence[bytes], make: Callable[[Sequence[bytes]], KeysCommand], deadline: float
    ) -> None:
        await run_keys(self._executor, keys, make, deadline)


async def run_keys(
    executor: Executor,
    keys: Sequence[bytes],
    make: Callable[[Sequence[bytes]], BatchCommand[bytes, None]],
    deadline: float,
) -> None:
    """Run a command that may be repeated at any time on sorted keys, in every region of theirs.

    Whether it was executed does not matter then: what would be undetermined is only late.
    """
    try:
        await run_batch(executor, BatchOperation(keys, _identity, len, make), deadline)
    except UndeterminedError as error:
        raise DeadlineExceededError(f"no certain answer in time; it may be repeated: {error}") from error


def _by_transaction(locks: Iterable[ForeignLock]) -> dict[int, list[ForeignLock]]:
    """Return locks by the start of their transaction, oldest first."""
    result: dict[int, list[ForeignLock]] = {}
    for lock in sorted(locks, key=attrgetter("start_ts", "key")):
        result.setdefault(lock.start_ts, []).append(lock)
    return result


def _identity(key: bytes) -> bytes:
    return key

"""Transactions on the cluster: the backend behind `AsyncTransaction`, made of resolver, locker and committer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from pytinykv.client.answer_sizes import AnswerKind
from pytinykv.client.batches import BatchOperation, run_batch
from pytinykv.client.commands import Pair
from pytinykv.client.errors import InvalidArgumentError
from pytinykv.client.executor import Executor
from pytinykv.client.key_space import KeyRange
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.scanning import Pages, ScanPager
from pytinykv.client.txn.backend import Pauses
from pytinykv.client.txn.background import Background
from pytinykv.client.txn.committer import Committer
from pytinykv.client.txn.key_errors import KeysLockedError
from pytinykv.client.txn.locker import Locker
from pytinykv.client.txn.parts import ClusterParts
from pytinykv.client.txn.read_commands import TxnGet, TxnScan, get_pairs
from pytinykv.client.txn.records import BufferedWrite, SnapshotView, Txn
from pytinykv.client.txn.resolver import Resolver
from pytinykv.lifecycle import Scope
from pytinykv.wire.timestamp import Timestamp, physical_ms


class ClusterBackend:
    """See `TransactionBackend`. All methods but `abandon` belong to the loop of the client."""

    def __init__(self, executor: Executor, scheduler: SchedulerClient, scope: Scope) -> None:
        self.config = executor.config
        self.background = Background(scope, tasks_max=executor.config.background_max)
        self.resolver = Resolver(executor, scheduler, self.background)
        self._executor = executor
        self._loop = executor.origin.loop
        self._parts = ClusterParts(executor, scheduler, self.resolver, self.background, scope)
        self._locker = Locker(self._parts)
        self._committer = Committer(self._parts)
        self._seen_ts = 0
        """The greatest timestamp that the scheduler has given."""

    def deadline(self, timeout_s: float | None) -> float:
        return self._executor.deadline(timeout_s)

    def is_over(self, deadline: float) -> bool:
        return self._loop.time() >= deadline

    def mutex(self) -> asyncio.Lock:
        return asyncio.Lock()

    def pauses(self, deadline: float) -> Pauses:
        return self._executor.begin(deadline).backoff

    # --- beginning ----------------------------------------------------------------------------------------------

    async def begin(self, deadline: float, *, is_pessimistic: bool) -> Txn:
        begun_at = self._loop.time()
        view = SnapshotView(await self._timestamp(deadline))
        return Txn(view, begun_at=begun_at, is_pessimistic=is_pessimistic)

    async def view(self, ts: int | None, deadline: float) -> SnapshotView:
        if ts is None:
            return SnapshotView(await self._timestamp(deadline))
        if ts > self._seen_ts and ts > (now := await self._timestamp(deadline)):
            ahead_ms = physical_ms(Timestamp(ts)) - physical_ms(Timestamp(now))
            raise InvalidArgumentError(
                f"ts {ts} lies {ahead_ms} ms in the future of the cluster (now {now}): what a snapshot there holds is not "
                "decided. Use a timestamp that the cluster has given, or leave it out for now"
            )
        return SnapshotView(ts)

    async def _timestamp(self, deadline: float) -> int:
        ts = await self._parts.timestamp(deadline)
        self._seen_ts = max(self._seen_ts, ts)
        return ts

    # --- reading ------------------------------------------------------------------------------------------------

    async def get(self, view: SnapshotView, key: bytes, deadline: float) -> bytes | None:
        try:
            return await self._executor.execute(TxnGet(key, view), deadline)
        except KeysLockedError as error:
            return await self._get_locked(view, key, deadline, error)

    async def _get_locked(
        self, view: SnapshotView, key: bytes, deadline: float, error: KeysLockedError
    ) -> bytes | None:
        attempts = self._executor.begin(deadline)
        while True:
            await self.resolver.clear_for_read(error.locks, view, attempts)
            try:
                return await self._executor.execute(TxnGet(key, view), deadline)
            except KeysLockedError as again:
                error = again

    async def get_many(self, view: SnapshotView, keys: Sequence[bytes], deadline: float) -> dict[bytes, bytes]:
        operation = BatchOperation(keys, _identity, len, lambda items: get_pairs(items, view), AnswerKind("txn"))
        attempts = self._executor.begin(deadline)
        while True:
            try:
                results = await run_batch(self._executor, operation, deadline)
                return dict(sorted(pair for result in results for pair in result))
            except KeysLockedError as error:
                await self.resolver.clear_for_read(error.locks, view, attempts)

    def pages(self, view: SnapshotView, scan: ScanRequest) -> Pages:
        def make(part: KeyRange, rows: int) -> TxnScan:
            return TxnScan(part, view, limit=rows, reverse=scan.reverse, key_only=scan.key_only)

        pager = ScanPager(self._executor, scan, make, AnswerKind("txn", key_only=scan.key_only))
        return _ResolvingPages(self, pager, view, scan.timeout_s)

    # --- writing ------------------------------------------------------------------------------------------------

    async def lock(
        self, txn: Txn, keys: Sequence[bytes], deadline: float, *, at_snapshot: bool, must_not_exist: bool, read: bool
    ) -> dict[bytes, bytes | None]:
        return await self._locker.lock(
            txn, keys, deadline, at_snapshot=at_snapshot, must_not_exist=must_not_exist, read=read
        )

    async def commit(self, txn: Txn, writes: Sequence[BufferedWrite], deadline: float) -> int:
        return await self._committer.commit(txn, writes, deadline)

    async def rollback(self, txn: Txn, deadline: float) -> None:
        await self._locker.release_all(txn, deadline)

    def abandon(self, txn: Txn) -> None:
        heartbeat = txn.heartbeat
        if heartbeat is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(heartbeat.stop)


class _ResolvingPages:
    """The pages of a scan that deals with locks in its way."""

    def __init__(self, backend: ClusterBackend, pager: ScanPager, view: SnapshotView, timeout_s: float | None) -> None:
        self._backend = backend
        self._pager = pager
        self._view = view
        self._timeout_s = timeout_s

    def check_origin(self) -> None:
        self._pager.check_origin()

    async def next_page(self) -> deque[Pair]:
        try:
            return await self._pager.next_page()
        except KeysLockedError as error:
            locked = error
        executor = self._backend._executor  # noqa: SLF001 - same module
        attempts = executor.begin(executor.deadline(self._timeout_s))
        while True:
            await self._backend.resolver.clear_for_read(locked.locks, self._view, attempts)
            try:
                return await self._pager.next_page()
            except KeysLockedError as error:
                locked = error


def _identity(key: bytes) -> bytes:
    return key

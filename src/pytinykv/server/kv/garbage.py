"""Collecting the versions that no snapshot reads any more, region by region, as far as the scheduler allows.

    report ──▶ scheduler ──▶ announced: refuse reads and prewrites below    ──▶ acknowledged by the next report
                        ├──▶ resolve: locks from before, in each region led here, whose owners are gone (`old_locks`)
                        └──▶ collect: in each region led here, slices ──▶ log ──▶ … ──▶ the next region

A store acknowledges with the next report only, `REPORT_S` later: by then what was evaluated before it took up the safe point
is applied, so that the locks it reports are all there are from below (see `scheduler.gc`).

Invariants:
1. Nothing is deleted above what the scheduler says that all stores refuse.
2. Deletions go through the region's log, in the order in which no old version comes to light in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.server.kv.old_locks import PASS_TIMEOUT_S, old_locks
from pytinykv.server.kv.txn_requests import PlainBoundsError, bounds_of_data
from pytinykv.storage import ColumnFamily
from pytinykv.transaction.commands import Gc
from pytinykv.transaction.gc import collect
from pytinykv.transaction.records import decode_lock
from pytinykv.wire.errors import ServerIsBusy
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import RegionPeer
    from pytinykv.server.kv.txn_host import StorePort, TransactionHost

_log = logging.getLogger(__name__)

REPORT_S: Final = 10.0
"""How often a store reports."""
REPORT_TIMEOUT_S: Final = 5.0
APPLY_TIMEOUT_S: Final = 20.0
"""How long a slice may take to be applied, before the region is left for the next time."""
SLICE_PAUSE_S: Final = 0.005
"""Pause after a slice, in which clients are served."""
LOCKS_PER_SLICE: Final = 1000


class Allowed(NamedTuple):
    """What the scheduler answers."""

    announced_ts: int
    """Refuse reads and prewrites below this."""
    collect_ts: int
    """Delete what no reader at or above this sees."""
    resolve_ts: int = 0
    """Find out about the locks of transactions that began below this: they hold collection back."""


Report = Callable[[int, int, float], Awaitable[Allowed]]
"""Reports (acknowledged_ts, oldest_lock_ts, timeout_s). Raises Exception."""


class GarbageCollector:
    """One store's garbage. `start` once; its tasks belong to `scope`."""

    def __init__(self, host: TransactionHost, scope: Scope, report: Report) -> None:
        self._host = host
        self._scope = scope
        self._report = report
        self.collect_ts = 0
        """Up to which garbage may be collected; only grows."""
        self._collected_ts = 0
        """Up to which it was, in all regions that were led here at that time."""
        self.deleted = 0
        """Commit records that were deleted in regions led here; only grows."""
        self.resolved = 0
        """Locks of ended transactions that were removed in regions led here; only grows."""

    async def start(self, patience_s: float) -> None:
        """Take up the safe point before anything is read, then go on by itself. Raises what reporting raises."""
        self._take_up(await self._report(0, 0, patience_s))
        self._scope.start("gc", self._run)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            acknowledged = self._host.safe_point
            oldest = await self.oldest_lock()
            try:
                allowed = await self._report(acknowledged, oldest, REPORT_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - whatever keeps the scheduler away: it is told again
                _log.info("garbage collection is not reported: %s", error)
                continue
            self._take_up(allowed)
            if oldest < allowed.resolve_ts:
                await self.resolve_old_locks(allowed.resolve_ts)
            if self.collect_ts > self._collected_ts:
                await self._collect_all(self.collect_ts)

    def _take_up(self, allowed: Allowed) -> None:
        self._host.raise_safe_point(Timestamp(allowed.announced_ts))
        self.collect_ts = max(self.collect_ts, allowed.collect_ts)

    async def oldest_lock(self) -> int:
        """Return the start of the oldest transaction that has a lock in this store's data, the largest number for none."""
        oldest, looked_at = MAX_TIMESTAMP, 0
        with self._host.store.engine.cursor(ColumnFamily.LOCK) as cursor:
            for _key, stored in cursor.pairs():
                oldest = min(oldest, decode_lock(stored).start_ts)
                looked_at += 1
                if looked_at % LOCKS_PER_SLICE == 0:
                    await asyncio.sleep(0)
        return oldest

    async def resolve_old_locks(self, before_ts: int) -> None:
        """Remove, in regions led here, the locks of transactions from before `before_ts` that have ended or run out.

        The next report tells what is left: so a lock counts until its removal was applied here.
        """
        cluster = self._host.cluster
        if cluster is None:
            return
        ends_at = asyncio.get_running_loop().time() + PASS_TIMEOUT_S
        found = left = 0
        try:
            async for locks in old_locks(self._host.store, before_ts):
                left_s = ends_at - asyncio.get_running_loop().time()
                if left_s <= 0:
                    break
                left += await cluster.resolve_locks(locks, left_s)
                found += len(locks)
        except Exception as error:  # noqa: BLE001 - no scheduler, no store: the next pass does the rest
            _log.info("old locks are left for the next time: %s", error)
        if found:
            self.resolved += found - left
            _log.info("%d locks from before %d: %d of them are left", found, before_ts, left)

    # --- collecting ---------------------------------------------------------------------------------------------

    async def _collect_all(self, safe_point: int) -> None:
        peers = self._host.store.peers
        for region_id in sorted(peers):
            peer = peers.get(region_id)
            if peer is not None and peer.is_leader:
                error = await self._collect_in(peer, safe_point)
                if error is not None:
                    _log.info("region %d: garbage is left for the next time: %s", region_id, error)
        self._collected_ts = safe_point

    def collect_region(self, peer: RegionPeer, on_done: Callable[[Exception | None], None]) -> None:
        """Collect one region now; `on_done(error)` is called once."""

        async def run() -> None:
            error: Exception | None = ServerIsBusy(reason="the store is stopping")
            try:
                error = await self._collect_in(peer, self.collect_ts)
            finally:
                on_done(error)

        try:
            self._scope.start(f"gc-region-{peer.region.id}", run)
        except ScopeStoppedError as error:
            on_done(error)

    async def _collect_in(self, peer: RegionPeer, safe_point: int) -> Exception | None:
        """Collect one region's garbage; return why that was not finished."""
        port = self._host.port(peer, peer.region.epoch.version, peer.term)
        try:
            start, end = bounds_of_data(peer.region)
        except PlainBoundsError:
            return None  # it holds no versions
        if (error := await self._until_current(port)) is not None:
            return error
        with self._host.store.engine.snapshot() as snapshot:
            for part in collect(snapshot, Gc(safe_point=Timestamp(safe_point), start=start, end=end)):
                if part.changes:
                    error = await self._apply(port, part.changes)
                    if error is not None:
                        return error
                    self.deleted += part.deleted
                await asyncio.sleep(SLICE_PAUSE_S)
        return None

    async def _until_current(self, port: StorePort) -> Exception | None:
        return await self._answer(port.wait_until_current)

    async def _apply(self, port: StorePort, changes: list[Any]) -> Exception | None:
        return await self._answer(lambda on_applied: port.propose(changes, on_applied))

    async def _answer(self, ask: Callable[[Callable[[Exception | None], None]], None]) -> Exception | None:
        """Return what the store answers, or that it takes too long."""
        answer: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def on_answer(error: Exception | None) -> None:
            if not answer.done():
                answer.set_result(error)

        ask(on_answer)
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return TimeoutError(f"not applied within {APPLY_TIMEOUT_S:.0f} s")

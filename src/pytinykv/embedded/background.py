"""What runs beside the callers of a database, in one thread under a lifecycle scope.

    lock-waits     ends the waits of pessimistic locks at their deadlines, and gives the next waiter its chance
    unlock         releases the locks of transactions that were forgotten
    garbage        deletes versions that no snapshot can see any more
    sync           relaxed durability: makes durable, each second, what was committed since the last time

No read and no commit waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from pytinykv.embedded.database import Database
from pytinykv.embedded.garbage import Garbage
from pytinykv.lifecycle import LoopThread, StopReport, ThreadWorker, result_of
from pytinykv.storage import EngineError

_log = logging.getLogger(__name__)

RELAXED_SYNC_S: Final = 1.0
"""How much a power cut may take from a database with relaxed durability."""


class Background:
    """The thread of one database. Started when it is made, ended by `stop`."""

    def __init__(self, database: Database, *, history_s: float) -> None:
        self._database = database
        self.garbage: Final = Garbage(database, history_s=history_s)
        self._thread = LoopThread("tinykv-embedded", loop_factory=asyncio.new_event_loop)
        self._thread.start()
        self._loop = self._thread.call(self._start, 5.0)
        database.on_waiting = lambda: self._soon(self._waits_changed.set)
        database.on_abandoned = lambda txn: self._soon(lambda: database.unlock_all(txn))

    async def _start(self) -> asyncio.AbstractEventLoop:
        scope = self._thread.scope
        self._waits_changed = asyncio.Event()
        """Set when the next deadline of a lock wait may have come nearer."""
        scope.start("lock-waits", self._end_waits)
        scope.start("garbage", self.garbage.run)
        if self._database.is_relaxed:
            scope.start("sync", self._sync, ThreadWorker(scope, "disk"))
        return asyncio.get_running_loop()

    def _soon(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed: the database is closing
            _log.debug("the background of %s has ended", self._database.name)

    async def _end_waits(self) -> None:
        database = self._database
        while True:
            with database.writer:
                due = database.executor.next_due()
            timeout_s = None if due is None else max(0.0, due - database.now())
            try:
                async with asyncio.timeout(timeout_s):
                    await self._waits_changed.wait()
                self._waits_changed.clear()
            except TimeoutError:
                with database.writer:
                    database.executor.on_time(database.now())

    async def _sync(self, disk: ThreadWorker) -> None:
        while True:
            await asyncio.sleep(RELAXED_SYNC_S)
            try:
                await result_of(disk, self._database.sync_relaxed)
            except EngineError as error:
                _log.error("%s: what was committed lately may not be durable: %s", self._database.name, error)
                return

    def stop(self) -> StopReport:
        """End everything. From any thread but its own."""
        return self._thread.stop()

"""What runs beside the callers of a database, in one thread under a lifecycle scope.

    lock-waits     ends the waits of pessimistic locks at their deadlines, and gives the next waiter its chance
    unlock         releases the locks of transactions that were forgotten
    garbage        deletes versions that no snapshot can see any more
    sync           relaxed durability: makes durable, each second, what was committed since the last time
    place          looks, each second, whether the directory is still there

No read and no commit waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from pytinykv.embedded.database import CLOSE_S, Database
from pytinykv.embedded.garbage import Garbage
from pytinykv.embedded.refusals import engine_error
from pytinykv.lifecycle import LoopThread, ThreadWorker, result_of
from pytinykv.storage import EngineError

_log = logging.getLogger(__name__)

START_S: Final = 5.0
STOP_S: Final = 2 * CLOSE_S + 2
"""For a whole stop."""
PLACE_CHECK_S: Final = 1.0
"""How long a database may write on after its directory was deleted."""
RELAXED_SYNC_S: Final = 1.0
"""How much a power cut may take from a database with relaxed durability."""


class Background:
    """The thread of one database. Started when it is made, ended by `stop`."""

    def __init__(self, database: Database, *, history_s: float) -> None:
        self._database = database
        self.garbage: Final = Garbage(database, history_s=history_s)
        self.close_error: EngineError | None = None
        """Why the engine could not be closed in order; set by the end of the stop."""
        self._thread = LoopThread("tinykv-embedded", loop_factory=asyncio.new_event_loop)
        self._thread.start()
        try:
            self._loop = self._thread.call(self._start, START_S)
        except BaseException:
            self._thread.stop(STOP_S)
            raise
        database.on_waiting = lambda: self._soon(self._waits_changed.set)
        database.on_abandoned = lambda txn: self._soon(lambda: database.unlock_all(txn))

    async def _start(self) -> asyncio.AbstractEventLoop:
        scope = self._thread.scope
        scope.on_stop("end waits and commits", self._database.refuse_all, CLOSE_S + 1)
        scope.on_stopped("close the engine", self._release, CLOSE_S)
        self._waits_changed = asyncio.Event()
        """Set when the next deadline of a lock wait may have come nearer."""
        scope.start("lock-waits", self._end_waits)
        scope.start("garbage", self.garbage.run)
        scope.start("place", self._watch_place)
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

    async def _watch_place(self) -> None:
        while True:
            await asyncio.sleep(PLACE_CHECK_S)
            if not self._database.check_place():
                break
        _log.error("%s takes no more writes: %s", self._database.name, self._database.failure)

    async def _sync(self, disk: ThreadWorker) -> None:
        while True:
            await asyncio.sleep(RELAXED_SYNC_S)
            try:
                await result_of(disk, self._database.sync_relaxed)
            except EngineError as error:
                _log.error("%s: what was committed lately may not be durable: %s", self._database.name, error)
                return

    def _release(self) -> None:
        try:
            self._database.release()
        except EngineError as error:
            self.close_error = error

    def stop(self) -> None:
        """End everything, and close the engine. From any thread but its own. Raises `ClientError` if that has failed."""
        report = self._thread.stop(STOP_S)
        if not report.ok:
            _log.error("%s did not stop cleanly\n%s", self._database.name, report.render())
        if self.close_error is not None:
            raise engine_error(self.close_error) from self.close_error

    def request_stop(self) -> None:
        """Begin to stop, without waiting: from any thread, at any point of it."""
        self._thread.request_stop(STOP_S)

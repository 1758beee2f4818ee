"""Old versions and expired raw values: deleted in the background, some at a time.

    now - history_s, but never above the oldest open view  ──▶ safe point ──▶ reads below it are refused
                                                                        └──▶ slices of `transaction.gc`, each in one batch

What an open transaction or snapshot shows stays, however long it is open: in one process it is known which are. Only a
snapshot of the past (`db.snapshot(ts)`) may come too late.

Invariant: a safe point is chosen and shown under the writer's lock, before anything is deleted. A view is registered before
it looks at the safe point, so either it holds the safe point back, or it sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Generator
from itertools import islice
from typing import TYPE_CHECKING, Final

from pytinykv.model.raw_values import expiry_s, has_expired
from pytinykv.storage import ColumnFamily, EngineError
from pytinykv.storage.changes import add_changes
from pytinykv.transaction.commands import Gc
from pytinykv.transaction.gc import GcSlice, collect
from pytinykv.wire.timestamp import LOGICAL_BITS, Timestamp

if TYPE_CHECKING:
    from pytinykv.embedded.database import Database

_RAW: Final = ColumnFamily.RAW

_log = logging.getLogger(__name__)

PAUSE_S_MAX: Final = 60.0
"""Between two passes, at most; a tenth of the history if that is less."""
PAUSE_S_MIN: Final = 0.05
SHARE_MAX: Final = 0.05
"""A pass over much data is followed by a pause so long that collecting takes no more than this part of the time."""
RAW_PER_SLICE: Final = 1000
"""Raw pairs that are looked at in one go."""
SLICE_PAUSE_S: Final = 0.005
"""After a slice, in which callers are served."""


class Garbage:
    """The garbage of one database."""

    def __init__(self, database: Database, *, history_s: float) -> None:
        self._database = database
        self._history_s = history_s
        self._seen_writes = -1
        """`port.writes` when the last pass began."""
        self.collected_ts = -1
        """The safe point of the last pass that has ended."""
        self.deleted = 0
        """Commit records deleted; only grows."""
        self.expired = 0
        """Raw values deleted because their time was over; only grows."""

    async def run(self) -> None:
        """Collect again and again, until cancelled or the database takes no more writes."""
        clock = asyncio.get_running_loop()
        least_s = max(PAUSE_S_MIN, min(PAUSE_S_MAX, self._history_s / 10))
        took_s = 0.0
        while True:
            await asyncio.sleep(max(least_s, took_s / SHARE_MAX))
            began = clock.time()
            self._release_cursors()
            if (failure := self._database.failure) is not None:
                _log.warning("%s: garbage is not collected any more: %s", self._database.name, failure)
                return
            try:
                await self.collect()
                await self.delete_expired()
            except EngineError as error:
                _log.warning("%s: garbage is not collected any more: %s", self._database.name, error)
                return
            took_s = clock.time() - began

    def _release_cursors(self) -> None:
        """Let go of the engine's states that idle views hold; they take new cursors when they are read next."""
        for view in self._database.oracle.views():
            view.cursors.clear()

    def choose_safe_point(self) -> int:
        """Raise the safe point as far as history and open views allow; return it."""
        database = self._database
        with database.writer:
            past = database.oracle.wall_ts() - int(self._history_s * 1000 * (1 << LOGICAL_BITS))
            allowed = min(database.oracle.oldest_open(), past)
            database.executor.safe_point = Timestamp(max(database.executor.safe_point, allowed, 0))
            return database.executor.safe_point

    async def collect(self) -> None:
        """Make one pass, unless nothing can have become garbage since the last one."""
        database = self._database
        writes, safe_point = database.port.writes, self.choose_safe_point()
        if safe_point <= self.collected_ts or (
            writes == self._seen_writes and database.oracle.visible_ts <= self.collected_ts
        ):
            return
        guard = database.reads.guard
        with contextlib.closing(_slices(database, safe_point)) as slices:
            while True:
                with guard:
                    part = next(slices, None)
                if part is None:
                    break
                self._apply(part)
                await asyncio.sleep(SLICE_PAUSE_S)
        self._seen_writes, self.collected_ts = writes, safe_point

    async def delete_expired(self) -> None:
        """Delete the raw values whose time to live is over, wherever they are; look for none before one can have expired."""
        database = self._database
        with database.writer:
            if database.first_expiry_s > time.time():
                return
            database.first_expiry_s = math.inf
        try:
            await self._delete_expired_of_all()
        except BaseException:
            database.first_expiry_s = 0  # what was not looked at is unknown
            raise

    async def _delete_expired_of_all(self) -> None:
        database = self._database
        next_key: bytes | None = b""
        while next_key is not None:
            with database.reads.guard, database.engine.cursor(_RAW, next_key) as cursor:
                if cursor.seek_to_first() is None:
                    return
                part = list(islice(cursor.pairs(), RAW_PER_SLICE))
            next_key = part[-1][0] + b"\0" if len(part) == RAW_PER_SLICE else None
            self._delete_expired([(key, when) for key, stored in part if (when := expiry_s(stored)) is not None])
            await asyncio.sleep(SLICE_PAUSE_S)

    def _delete_expired(self, found: list[tuple[bytes, int]]) -> None:
        """Delete those of the values that have expired, but for those that have been put anew since."""
        database, now_s = self._database, int(time.time())
        expired = [key for key, expires_s in found if expires_s <= now_s]
        if not found:
            return
        with database.writer:
            for _, expires_s in found:
                if expires_s > now_s:
                    database.will_expire(expires_s)
            if not expired:
                return
            batch = database.engine.write_batch()
            for key in expired:
                if has_expired(database.engine.get(_RAW, key), now_s):
                    batch.delete(_RAW, key)
                    self.expired += 1
            database.engine.write(batch)

    def _apply(self, part: GcSlice) -> None:
        database = self._database
        if part.changes:
            with database.writer:
                batch = database.engine.write_batch()
                add_changes(batch, part.changes)
                database.engine.write(batch)
            self.deleted += part.deleted


def _slices(database: Database, safe_point: int) -> Generator[GcSlice]:
    yield from collect(database.engine, Gc(safe_point=Timestamp(safe_point)))

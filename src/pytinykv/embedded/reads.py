"""Reads, in the thread of the caller: from a view to a value, and to the pages of a scan.

A view needs no snapshot of the engine. All commits at or below its timestamp are in the engine, later ones have greater
timestamps, and what an open view shows is not collected: so any state from then on shows the same at that timestamp. On
RocksDB a read takes no lock: its iterators stand beside a writer. The engine in memory can't be read while it is written, so
there each read holds the writer's lock for its time.

Locks are not looked at: a lock belongs to a transaction that has not committed, and will commit above every open view.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple

from pytinykv.client.commands import Pair
from pytinykv.client.key_space import KeyRange
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.txn.records import SnapshotView
from pytinykv.embedded.interrupts import UninterruptedLock
from pytinykv.embedded.oracle import OpenView
from pytinykv.embedded.refusals import engine_error
from pytinykv.storage import ColumnFamily, Engine, EngineError, MemoryEngine
from pytinykv.transaction.commands import ReadView, Scan
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import short_value_of_put
from pytinykv.transaction.scan import scan_unlocked
from pytinykv.transaction.stored_keys import encode_bytes, stored_key
from pytinykv.wire.keys import next_key
from pytinykv.wire.timestamp import Timestamp

_WRITE: Final = ColumnFamily.WRITE
FIRST_ROWS: Final = 64
"""Rows of the first page of a scan."""
ROWS_MAX: Final = 4096
PAGE_BYTES: Final = 1 << 20
"""Pages of large rows end sooner."""


class Page(NamedTuple):
    """A part of a scan."""

    pairs: list[Pair]
    is_last: bool
    """Whether the range has no more."""


class EngineReads:
    """Reads of one engine."""

    def __init__(self, engine: Engine, writer: threading.Lock) -> None:
        self._engine = engine
        self.guard: AbstractContextManager[object] = writer if isinstance(engine, MemoryEngine) else nullcontext()
        """Held while the engine is read."""
        self.loop_guard: AbstractContextManager[object] = (
            UninterruptedLock(writer) if isinstance(engine, MemoryEngine) else nullcontext()
        )
        """As `guard`, around loops."""
        self._keeps_cursors = not isinstance(engine, MemoryEngine)

    def get(self, view: OpenView, key: bytes) -> bytes | None:
        with self.guard:
            encoded = encode_bytes(key)
            try:
                cursor = view.cursors.pop()
            except IndexError:
                cursor = self._engine.cursor(_WRITE)
            stored = cursor.seek(stored_key(encoded, Timestamp(view.ts)))
            if stored is None or not stored.startswith(encoded):
                value = None
            else:
                value = short_value_of_put(cursor.value())
                if value is None:
                    value = self._other(view.ts, encoded)
            if self._keeps_cursors:
                view.cursors.append(cursor)
            else:
                cursor.close()
            return value

    def _other(self, ts: int, encoded: bytes) -> bytes | None:
        """Return what a key has whose newest record is not a put of a short value."""
        reader = MvccReader(self._engine)
        try:
            found = reader.newest_put(encoded, Timestamp(ts))
            return None if found is None else reader.value_of(encoded, found[1])
        finally:
            reader.close()

    def page(self, ts: int, range_: KeyRange, rows: int, *, reverse: bool, key_only: bool) -> Page:
        """Return the first pairs of a range, `rows` at most, or fewer if they are large."""
        command = Scan(
            start=range_.start,
            end=range_.end,
            limit=rows,
            reverse=reverse,
            key_only=key_only,
            view=ReadView(Timestamp(ts)),
        )
        pairs: list[Pair] = []
        size = 0
        with self.loop_guard:
            for pair in scan_unlocked(self._engine, command):
                pairs.append(pair)
                size += len(pair[1])
                if size > PAGE_BYTES:
                    return Page(pairs, is_last=False)
        return Page(pairs, is_last=len(pairs) < rows)


class RefusingReads(EngineReads):
    """The reads of a database in a forked child."""

    def __init__(self, refuse: Callable[[], None]) -> None:
        self._refuse = refuse
        """Raises."""
        self.guard = self.loop_guard = nullcontext()

    def get(self, view: OpenView, key: bytes) -> bytes | None:
        self._refuse()
        return None

    def page(self, ts: int, range_: KeyRange, rows: int, *, reverse: bool, key_only: bool) -> Page:
        self._refuse()
        return Page([], is_last=True)


class LocalPages:
    """The pages of a scan. Each is read for itself, all at the timestamp of the view; not to be asked twice at a time."""

    def __init__(
        self,
        reads: EngineReads,
        view: SnapshotView,
        scan: ScanRequest,
        *,
        check: Callable[[], None],
    ) -> None:
        """`check` raises where the database can't be used."""
        self._reads = reads
        self._view = view
        """Held as long as the scan is: what it shows is not collected."""
        self._left = scan.range_ if scan.limit != 0 else None
        """What is still to be read; None when that is nothing."""
        self._limit = scan.limit
        """How many rows are still wanted; None for all."""
        self._reverse = scan.reverse
        self._key_only = scan.key_only
        self._rows = FIRST_ROWS
        """Rows of the next page, at most."""
        self.check_origin = check

    def next_page_now(self) -> deque[Pair]:
        """Return the next pairs; none when the scan is over."""
        self.check_origin()
        left = self._left
        if left is None:
            return deque()
        rows = self._rows if self._limit is None else min(self._rows, self._limit)
        self._rows = min(self._rows * 4, ROWS_MAX)
        try:
            page = self._reads.page(self._view.ts, left, rows, reverse=self._reverse, key_only=self._key_only)
        except EngineError as error:
            raise engine_error(error) from error
        pairs = page.pairs
        if self._limit is not None:
            self._limit -= len(pairs)
        if page.is_last or not pairs or self._limit == 0:
            self._left = None
        elif self._reverse:
            self._left = KeyRange(left.start, pairs[-1][0])
        else:
            self._left = KeyRange(next_key(pairs[-1][0]), left.end)
        return deque(pairs)

    async def next_page(self) -> deque[Pair]:
        return self.next_page_now()

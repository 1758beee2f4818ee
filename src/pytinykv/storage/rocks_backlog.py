"""Holds a write back while RocksDB has too much to do in the background, for a bounded time.

RocksDB can do so itself: a write that would make one memtable or one file of level 0 too many waits inside of it. That wait
has no end where the work can't be done: when a flush fails on a full disk, RocksDB tries it again for ever and keeps the
write waiting meanwhile, with the GIL. So its own limits are off (`rocks_options.py`), and these are in their place. A write
that is let through tells what is wrong: after a failed flush RocksDB refuses it with the error of the flush.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from pytinykv.storage.rocks_options import RocksConfig

LEVEL_0_FILES_MAX: Final = 24
"""In one column family; compactions begin at 4. A read looks into each of them."""
POLL_S: Final = 0.002
CHECKS_A_BUFFER: Final = 8
"""How often it looks while one memtable fills up."""


class Backlog:
    """What RocksDB has still to write to files, of all column families. For one thread."""

    def __init__(
        self,
        columns: Iterable[Any],
        config: RocksConfig,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._columns = list(columns)
        """One object of rocksdict for each column family."""
        self._unflushed_bytes_max = config.unflushed_bytes_max
        self._hold_back_max_s = config.hold_back_max_s
        self._check_bytes = config.write_buffer_bytes // CHECKS_A_BUFFER
        self._unchecked_bytes = 0
        """Written since the last look; a look costs 3 µs, as much as a small write."""
        self._now = now
        self._sleep = sleep

    def before_write(self, size_bytes: int) -> None:
        """Wait until the backlog is small enough for a write of that size, for `hold_back_max_s` at most.

        Not at all when only little was written since the last look, nor any longer once a flush or compaction fails.
        """
        self._unchecked_bytes += size_bytes
        if self._unchecked_bytes > self._check_bytes:
            self._unchecked_bytes = 0
            self._wait()

    def clear(self) -> None:
        """Let go of RocksDB."""
        self._columns.clear()

    def _wait(self) -> None:
        if not self._too_much():
            return
        errors = self._errors()
        deadline = self._now() + self._hold_back_max_s
        while self._too_much() and self._errors() == errors and self._now() < deadline:
            self._sleep(POLL_S)

    def _too_much(self) -> bool:
        # Memtables that were flushed and are kept for a cursor don't count: nothing that is waited for frees them.
        unflushed = sum(column.property_int_value("rocksdb.cur-size-all-mem-tables") for column in self._columns)
        return unflushed > self._unflushed_bytes_max or any(
            int(column.property_value("rocksdb.num-files-at-level0")) > LEVEL_0_FILES_MAX for column in self._columns
        )

    def _errors(self) -> int:
        """Return how often background work has failed since the start."""
        return int(self._columns[0].property_int_value("rocksdb.background-errors"))

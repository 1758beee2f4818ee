"""Lazy scans: an iterator over a range that fetches page after page, region after region.

    forward   [start ──► … region end) [region start ──► …            a short page ends the region's part, not the scan
    reverse   …  ◄── end) of the region, then the region below, down to start

A page is one command to one region. The first pages are small (most scans are stopped early); they grow to
`scan_page_rows_max`, or to what fits `scan_page_bytes_target` when rows are large. Each page is read for itself: a scan over
several pages is no snapshot of the range.
"""

from __future__ import annotations

from collections import deque

from pytinykv.client.commands import KeyRange, Pair, RawScan
from pytinykv.client.config import ClientConfig
from pytinykv.client.executor import Executor
from pytinykv.wire.keys import next_key

FIRST_PAGE_ROWS = 16


class ScanPager:
    """The position of one scan. `next_page` is not to be called twice at a time."""

    def __init__(
        self,
        executor: Executor,
        range_: KeyRange | None,
        *,
        limit: int | None,
        reverse: bool,
        key_only: bool,
        cf: str,
        timeout_s: float | None,
    ) -> None:
        self._executor = executor
        self._left = range_ if limit != 0 else None
        """What is still to be read; None when that is nothing."""
        self._limit = limit
        self._reverse = reverse
        self._key_only = key_only
        self._cf = cf
        self._timeout_s = timeout_s
        self._rows = FIRST_PAGE_ROWS

    async def next_page(self) -> deque[Pair]:
        """Return the next pairs, at least one; none when the scan is over. The deadline holds for each page."""
        deadline = self._executor.deadline(self._timeout_s)
        while self._left is not None:
            limit = self._rows if self._limit is None else min(self._rows, self._limit)
            command = RawScan(self._left, limit=limit, reverse=self._reverse, key_only=self._key_only, cf=self._cf)
            page = await self._executor.execute(command, deadline)
            self._advance(page, command.covered, exhausted=len(page) < limit)
            if page:
                self._adapt(page, self._executor.config)
                return deque(page)
        return deque()

    def _advance(self, page: list[Pair], covered: KeyRange, *, exhausted: bool) -> None:
        """Move on behind the page, or behind the region if it has no more."""
        assert self._left is not None
        if self._limit is not None:
            self._limit -= len(page)
        start, end = self._left
        if self._reverse:
            end = covered.start if exhausted else page[-1][0]
            over = end <= start
        else:
            start = covered.end if exhausted else next_key(page[-1][0])
            over = (exhausted and not covered.end) or (bool(end) and start >= end)
        self._left = None if over or self._limit == 0 else KeyRange(start, end)

    def _adapt(self, page: list[Pair], config: ClientConfig) -> None:
        row_bytes = max(1, sum(len(key) + len(value) for key, value in page) // len(page))
        fitting = max(1, config.scan_page_bytes_target // row_bytes)
        self._rows = min(self._rows * 2, config.scan_page_rows_max, fitting)

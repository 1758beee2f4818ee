"""Lazy scans: an iterator over a range that fetches page after page, region after region.

    forward   [start ──► … region end) [region start ──► …            a short page ends the region's part, not the scan
    reverse   …  ◄── end) of the region, then the region below, down to start

A page is one command to one region. The first pages are small (most scans are stopped early, and how large rows are is not
known before); they grow to `scan_page_rows_max`, or to what fits `scan_page_bytes_target` when rows are large. From the
second page on, the next one is asked for before it is needed: it arrives while the caller works on the one before. Each page
is read for itself: a raw scan over several pages is no snapshot of the range.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pytinykv.client.answer_sizes import UNKNOWN_ROWS, AnswerKind
from pytinykv.client.attempts import AttemptFailure
from pytinykv.client.commands import PagedScan, Pair
from pytinykv.client.key_space import KeyRange
from pytinykv.client.runner import CommandRunner
from pytinykv.client.scan_request import ScanRequest
from pytinykv.wire.keys import next_key

FIRST_PAGE_ROWS = 16
"""Rows of the first page, at most."""
PAGE_GROWTH = 4
"""A page has at most so many times as many rows as the one before."""

MakePage = Callable[[KeyRange, int], PagedScan]
"""Makes the command for the next page: of what range, and of how many rows at most."""


class Pages(Protocol):
    """The pages of a scan, one after the other."""

    def check_origin(self) -> None:
        """Raise `WrongEventLoopError` or `ClientForkedError` where the scan can't be used."""

    async def next_page(self) -> deque[Pair]:
        """Return the next pairs, at least one; none when the scan is over. Not to be called twice at a time."""


class _Ahead(NamedTuple):
    """A page that was asked for before it is needed. Its command is answered, or fails, like any other."""

    command: PagedScan
    reply: asyncio.Future[Any]


class ScanPager:
    """The position of one scan. `next_page` is not to be called twice at a time."""

    def __init__(
        self,
        executor: CommandRunner,
        scan: ScanRequest,
        make: MakePage,
        kind: AnswerKind,
    ) -> None:
        self._executor = executor
        self._left = scan.range_ if scan.limit != 0 else None
        """What is still to be read; None when that is nothing."""
        self._limit = scan.limit
        """How many rows are still wanted; None for all."""
        self._reverse = scan.reverse
        self._kind = kind
        self._make = make
        self._timeout_s = scan.timeout_s
        config = executor.config
        unknown = FIRST_PAGE_ROWS if kind.key_only else UNKNOWN_ROWS
        known = executor.answer_sizes.rows(self._kind, config.scan_page_bytes_target)
        self._rows = min(known or unknown, FIRST_PAGE_ROWS, config.scan_page_rows_max)
        """Rows to ask for with the next page."""
        self._pages = 0
        """Pages that were asked for by the caller."""
        self._ahead: _Ahead | None = None
        """The next page, if it was asked for already."""

    def check_origin(self) -> None:
        """Raise `WrongEventLoopError` or `ClientForkedError` where the client can't be used."""
        self._executor.origin.check()

    async def next_page(self) -> deque[Pair]:
        """Return the next pairs, at least one; none when the scan is over. The deadline holds for each page."""
        executor = self._executor
        deadline = executor.deadline(self._timeout_s)
        self._pages += 1
        while self._left is not None:
            ahead, self._ahead = self._ahead, None
            if ahead is not None and type(await ahead.reply) is AttemptFailure:
                ahead = None  # it may have failed long ago, and says nothing of the cluster as it is now
            if ahead is None:
                command = self._command(self._left)
                page = await executor.execute(command, deadline)
            else:
                command = ahead.command
                page = await executor.finish(command, ahead.reply, deadline)
            self._advance(page, command)
            if page:
                self._read_ahead()
                return deque(page)
        return deque()

    def _command(self, range_: KeyRange) -> PagedScan:
        return self._make(range_, self._rows if self._limit is None else min(self._rows, self._limit))

    def _read_ahead(self) -> None:
        """Ask for the next page, if the caller is likely to want it, and it is known where to ask."""
        if self._pages > 1 and self._left is not None:
            command = self._command(self._left)
            reply = self._executor.submit(command, self._executor.deadline(self._timeout_s))
            self._ahead = None if reply is None else _Ahead(command, reply)

    def _advance(self, page: list[Pair], command: PagedScan) -> None:
        """Move on behind the page, or behind the region if it has no more."""
        assert self._left is not None
        covered, exhausted = command.covered, len(page) < command.limit
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
        self._adapt(page, command)

    def _adapt(self, page: list[Pair], command: PagedScan) -> None:
        """Choose the rows of the next page by those of this one, for which a store may have asked to shrink it."""
        if page:
            config = self._executor.config
            row_bytes = self._executor.answer_sizes.learn(self._kind, page)
            fitting = max(1, config.scan_page_bytes_target // row_bytes)
            self._rows = min(command.limit * PAGE_GROWTH, config.scan_page_rows_max, fitting)

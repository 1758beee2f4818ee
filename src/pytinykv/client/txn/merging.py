"""A scan that shows a transaction's own writes on top of its snapshot.

snapshot   a1   c1   d1   f1            pages of the cluster, in the order of the scan
own        a2        d✗   e2   g2       what the transaction had written in the range when the scan began
shown      a2   c1        e2   f1 g2    up to the last key of a page; behind the last page, all that is left
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from pytinykv.client.commands import Pair
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.scanning import Pages


class MergingPages:
    """The pages of a snapshot with own writes among them. Not to be asked twice at a time."""

    def __init__(
        self,
        pages: Pages,
        own: Sequence[tuple[bytes, bytes | None]],
        scan: ScanRequest,
        check: Callable[[], None],
    ) -> None:
        """`own`: the writes in the range, ascending; None for a key that was deleted. `check` raises when it is over."""
        self._pages = pages
        self._own = deque(reversed(own) if scan.reverse else own)
        """Those that were not shown yet, in the order of the scan."""
        self._scan = scan
        self._limit = scan.limit
        """How many pairs are still wanted; None for all."""
        self._check = check
        self._is_over = scan.limit == 0
        """Whether nothing is left to show. Never unset."""

    def check_origin(self) -> None:
        self._pages.check_origin()

    async def next_page(self) -> deque[Pair]:
        self._check()
        while not self._is_over:
            page = await self._pages.next_page()
            merged = self._merge(page)
            self._is_over = not page
            if self._limit is not None:
                merged = merged[: self._limit]
                self._limit -= len(merged)
                self._is_over = self._is_over or self._limit == 0
            if merged:
                return deque(merged)
        return deque()

    def _merge(self, page: deque[Pair]) -> list[Pair]:
        """Return the pairs of a page, and the own ones up to its end; behind the last page (empty) all that are left."""
        own = self._own
        result: list[Pair] = []
        for pair in page:
            key = pair[0]
            while own and self._comes_before(own[0][0], key):
                self._take(own.popleft(), result)
            if own and own[0][0] == key:
                self._take(own.popleft(), result)
            else:
                result.append(pair)
        while own and not page:
            self._take(own.popleft(), result)
        return result

    def _comes_before(self, key: bytes, other: bytes) -> bool:
        return key > other if self._scan.reverse else key < other

    def _take(self, own: tuple[bytes, bytes | None], result: list[Pair]) -> None:
        key, value = own
        if value is not None:
            result.append((key, b"" if self._scan.key_only else value))

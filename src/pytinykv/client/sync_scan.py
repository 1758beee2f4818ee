"""Lazy scans, blocking: an iterator for threads over the pages of a scan."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from pytinykv.client.commands import Pair
from pytinykv.client.core import Core
from pytinykv.client.scanning import Pages


class Scan(Iterator[Pair]):
    """The pairs of a scan, fetched as they are asked for. It needs no closing.

    Threads may share one; each pair goes to one of them.
    """

    def __init__(self, core: Core, pager: Pages, timeout: float | None) -> None:
        self._core = core
        self._pager = pager
        self._timeout = timeout
        self._page: deque[Pair] = deque()
        """Pairs that were fetched and not yielded yet, next first. Replaced only under `_paging`, once it is empty."""
        self._paging = threading.Lock()
        """Held while a page is fetched: threads that share the scan ask for one at a time."""

    def __iter__(self) -> Iterator[Pair]:  # noqa: PYI034 - a generator is quicker than this iterator itself
        # What `next` does, without a call for each pair.
        while True:
            page = self._page
            try:
                while True:
                    yield page.popleft()
            except IndexError:
                pass  # fetched below, so that an error there does not come with this one
            try:
                pair = self.__next__()
            except StopIteration:
                return
            yield pair

    def __next__(self) -> Pair:
        try:
            return self._page.popleft()
        except IndexError:  # and not a look beforehand: another thread may take the last pair in between
            pass
        with self._paging:
            if not self._page:  # no other thread has put one there, nor can it now
                page = self._core.run(lambda _: self._pager.next_page(), self._timeout)
                if not page:
                    raise StopIteration
                pair = page.popleft()
                self._page = page
                return pair
        return self.__next__()

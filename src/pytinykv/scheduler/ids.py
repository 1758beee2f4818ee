"""Ids: cluster-wide unique numbers for stores, regions and peers, from a window that is reserved on disk.

Ids are handed out from [next, end) where `end` is durable. A restart begins at `end`, so an id is never given twice; the rest
of the window is skipped. 0 is never given.
"""

from __future__ import annotations


class IdAllocator:
    """Hands out ids below a durable bound. Knows no disk: the owner moves the bound with `on_reserved`.

    Invariant: 1 <= next <= end, and `end` never exceeds what is durable.
    """

    def __init__(self, end: int, window: int) -> None:
        self._next = end
        """The id that is handed out next."""
        self._end = end
        """Ids below this are durable; moved by the owner. Never goes down."""
        self._window = window
        """How many ids are reserved at a time."""

    @property
    def end(self) -> int:
        """Ids from here on are not reserved."""
        return self._end

    @property
    def is_low(self) -> bool:
        """Say whether more should be reserved now, so that no caller has to wait for the disk."""
        return self._end - self._next < self._window // 2

    def reservation(self, count: int = 0) -> int:
        """Return the bound to reserve next, so that `count` ids and a full window fit below it."""
        return self._next + count + self._window

    def on_reserved(self, end: int) -> None:
        """Note that ids below `end` are durable now."""
        self._end = max(self._end, end)

    def skip_past(self, used: int) -> None:
        """Never hand out `used` or anything below: it may be in use already."""
        self._next = max(self._next, used + 1)
        self._end = max(self._end, self._next)

    def allocate_nowait(self, count: int = 1) -> int | None:
        """Return the first of `count` consecutive ids, or None when the window must grow first."""
        if self._next + count > self._end:
            return None
        first = self._next
        self._next += count
        return first

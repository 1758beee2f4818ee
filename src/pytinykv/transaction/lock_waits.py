"""Waiting for locks: pessimistic transactions that are queued for a key that another has locked.

    key k, locked by 10; 40, 20, 30 wait     released ─▶ 20 is woken, tries again ─▶ has the lock: the others wait on
                                                                                  └▶ has not: 30 is next, a moment later

The oldest transaction goes first, whenever it came: it has waited longest for everything. Only one is woken by a release, as
only one can have the lock. What it does with its chance is told by `on_tried`: without the lock (another one committed what
it does not see, so that its client has to begin anew), the next one has its chance after `NEXT_WAKE_UP_S`, in which the
first may come back.

Invariants:
1. Every waiter ends exactly once: woken, at its deadline, with its transaction's request, or failed with its region or store.
2. As long as there are waiters for a key that was released, a wake-up for it is under way or due.

Left out: a lock that is never released wakes no waiter; each ends at its deadline, and its client then looks
whether the lock's owner is alive.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Final

from pytinykv.wire.timestamp import Timestamp

NEXT_WAKE_UP_S: Final = 0.02
"""How much later the next waiter has its chance, after one that was woken and did not take the lock."""


class WaitEnd(Enum):
    """Why a wait is over."""

    WOKEN = auto()
    """The lock was released: try again."""
    TIMED_OUT = auto()
    REGION_LOST = auto()
    """This store does not lead the region any more, or the region changed: the client has to ask anew."""
    STOPPING = auto()
    DEADLOCK = auto()
    """It would close a cycle."""
    TAKEN_BACK = auto()
    """The transaction has rolled back its request meanwhile."""


class Waiter:
    """One command that waits for one key. `on_end(why)` is called once, by whatever ends the wait."""

    __slots__ = ("deadline", "is_over", "key", "lock_ts", "on_end", "region_id", "start_ts")

    def __init__(
        self,
        *,
        key: bytes,
        start_ts: Timestamp,
        lock_ts: Timestamp,
        region_id: int,
        deadline: float,
        on_end: Callable[[WaitEnd], None],
    ) -> None:
        self.key: Final = key
        """The user's key."""
        self.start_ts: Final = start_ts
        """The transaction that waits."""
        self.lock_ts = lock_ts
        """The transaction that holds the lock, as far as it is known; moved by `LockWaits.on_locked`."""
        self.region_id: Final = region_id
        self.deadline: Final = deadline
        """Monotonic."""
        self.on_end: Final = on_end
        self.is_over = False
        """Set once, before `on_end` is called; heaps may hold it a while longer."""


_Place = tuple[Timestamp, int]
"""The transaction, and a number that tells two waits of the same one apart."""


class LockWaits:
    """The waiters of one store. Has no timer: its owner calls `on_time` when `next_due` has come."""

    def __init__(self) -> None:
        self._lines: dict[bytes, list[tuple[_Place, Waiter]]] = {}
        """By key, a heap of waiters by their places; may hold some that are over, never only such."""
        self._timers: list[tuple[float, int, Waiter]] = []
        """A heap of deadlines; may hold some that are over."""
        self._wake_ups: dict[bytes, float] = {}
        """By key, when its next waiter is to be woken."""
        self._count = 0
        """Waiters that are not over."""
        self._numbers = 0
        """The number of the latest waiter. Only grows."""

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def waiters(self) -> list[Waiter]:
        """Return those that wait, by key and in the order of their turns."""
        return [waiter for key in sorted(self._lines) for _, waiter in sorted(self._lines[key]) if not waiter.is_over]

    def of_key(self, key: bytes) -> list[Waiter]:
        """Return those that wait for a key, in no order."""
        return [waiter for _, waiter in self._lines.get(key, ()) if not waiter.is_over]

    def add(self, waiter: Waiter) -> None:
        """Put a command into the queue of its key."""
        self._numbers += 1
        self._count += 1
        heapq.heappush(self._lines.setdefault(waiter.key, []), ((waiter.start_ts, self._numbers), waiter))
        heapq.heappush(self._timers, (waiter.deadline, self._numbers, waiter))

    # --- what wakes ---------------------------------------------------------------------------------------------

    def on_released(self, keys: Iterable[bytes]) -> None:
        """Wake the first waiter of each of these keys, whose locks are gone."""
        if not self._lines:
            return
        for key in keys:
            self._wake_ups.pop(key, None)
            if (waiter := self._first(key)) is not None:
                self._end(waiter, WaitEnd.WOKEN)

    def on_tried(self, key: bytes, now: float) -> None:
        """Take note that the one who was woken for a key did not lock it: the next has its chance soon."""
        if key in self._lines:
            self._wake_ups.setdefault(key, now + NEXT_WAKE_UP_S)

    def on_locked(self, key: bytes, lock_ts: Timestamp) -> list[Waiter]:
        """Take note that a key has been locked; return those who wait for that transaction now, and for another before."""
        line = self._lines.get(key)
        if line is None:
            return []
        self._wake_ups.pop(key, None)
        moved = [waiter for _, waiter in sorted(line) if not waiter.is_over and waiter.lock_ts != lock_ts]
        for waiter in moved:
            waiter.lock_ts = lock_ts
        return moved

    # --- what ends ----------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return the monotonic time at which `on_time` has something to do, None while there are no waiters."""
        while self._timers and self._timers[0][2].is_over:
            heapq.heappop(self._timers)
        due = list(self._wake_ups.values())
        if self._timers:
            due.append(self._timers[0][0])
        return min(due, default=None)

    def on_time(self, now: float) -> None:
        """Wake those whose chance has come, then end those whose deadline has passed."""
        due = [key for key, wake_at in self._wake_ups.items() if wake_at <= now]
        self.on_released(due)
        while self._timers and (self._timers[0][2].is_over or self._timers[0][0] <= now):
            waiter = heapq.heappop(self._timers)[2]
            if not waiter.is_over:
                self._end(waiter, WaitEnd.TIMED_OUT)

    def end(self, waiter: Waiter, why: WaitEnd) -> None:
        """End one wait, whose transaction has been told something else meanwhile. Idempotent."""
        if not waiter.is_over:
            self._end(waiter, why)

    def fail_region(self, region_id: int) -> None:
        """End all waits in a region that is led elsewhere, has other bounds, or is gone."""
        for waiter in self.waiters():
            if waiter.region_id == region_id:
                self.end(waiter, WaitEnd.REGION_LOST)

    def fail_all(self) -> None:
        """End all waits: the store is stopping."""
        for waiter in self.waiters():
            self.end(waiter, WaitEnd.STOPPING)

    def _first(self, key: bytes) -> Waiter | None:
        line = self._lines.get(key)
        return None if line is None else line[0][1]

    def _end(self, waiter: Waiter, why: WaitEnd) -> None:
        waiter.is_over = True
        self._count -= 1
        line = self._lines[waiter.key]
        while line and line[0][1].is_over:
            heapq.heappop(line)
        if not line:
            del self._lines[waiter.key]
            self._wake_ups.pop(waiter.key, None)
        waiter.on_end(why)

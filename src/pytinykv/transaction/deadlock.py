"""Deadlock detection: which transaction waits for which, and the cycle that one more wait would close.

    10 ──k1──▶ 20 ──k2──▶ 30          30 wants k3, which 10 has locked: 30 ──k3──▶ 10 closes the cycle
                                      30 ──k3──▶ 10 ──k1──▶ 20 ──k2──▶ 30

The transaction whose wait closes a cycle is told so and has to roll back; the others go on waiting. One detector knows the
waits of all stores (that of the leader of the first region); a store tells it of each of its waits, again from time to time
while it lasts, and when it ends. So a detector that has just begun, and knows nothing, learns all of them soon.

Invariants:
1. The graph has no cycle: a wait that would close one is not taken into it.
2. What no store tells again within `lifetime_s` is forgotten: the store that waited may be gone.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from pytinykv.wire.timestamp import Timestamp

WAIT_LIFETIME_S: Final = 10.0
"""How long a wait counts that is not told again; stores tell theirs again every second or so."""


class Wait(NamedTuple):
    """A transaction that waits for another's lock, both named by their start timestamps."""

    start_ts: Timestamp
    lock_ts: Timestamp
    """Of the transaction that holds the lock."""
    key: bytes
    """The user's key that is locked."""


class DeadlockDetector:
    """The waits of a cluster, as far as they were told."""

    def __init__(self, *, lifetime_s: float = WAIT_LIFETIME_S) -> None:
        self._lifetime_s = lifetime_s
        self._waits: dict[Timestamp, dict[Timestamp, tuple[Wait, float]]] = {}
        """By waiting transaction and then by the one it waits for: the wait, and when it was told last (monotonic)."""

    def __len__(self) -> int:
        """Return how many transactions wait."""
        return len(self._waits)

    def detect(self, wait: Wait, now: float) -> tuple[Wait, ...]:
        """Take note of a wait, unless it closes a cycle: then return that cycle, which begins with it. Else return ().

        To tell the same wait again is to say that it lasts. A transaction that waits for itself is a cycle of one.
        """
        path = self._path(wait.lock_ts, wait.start_ts, now)
        if path is not None:
            return (wait, *path)
        self._waits.setdefault(wait.start_ts, {})[wait.lock_ts] = (wait, now)
        return ()

    def end_wait(self, start_ts: Timestamp, lock_ts: Timestamp) -> None:
        """Take note that a transaction does not wait for that other one any more."""
        waits = self._waits.get(start_ts)
        if waits is not None and waits.pop(lock_ts, None) is not None and not waits:
            del self._waits[start_ts]

    def end_transaction(self, start_ts: Timestamp) -> None:
        """Take note that a transaction waits for nothing any more."""
        self._waits.pop(start_ts, None)

    def clear(self) -> None:
        """Forget everything, when another store is to detect."""
        self._waits.clear()

    def waits(self) -> list[Wait]:
        """Return all waits that are known, the oldest waiter first."""
        return [wait for start_ts in sorted(self._waits) for wait, _told_at in self._waits[start_ts].values()]

    def _path(self, start: Timestamp, goal: Timestamp, now: float) -> tuple[Wait, ...] | None:
        """Return the waits that lead from one transaction to another, () from one to itself, None if none do."""
        if start == goal:
            return ()
        came_by: dict[Timestamp, Wait] = {}
        """By transaction that was reached, the wait by which it was."""
        open_ends = [start]
        while open_ends:
            current = open_ends.pop()
            for wait in self._live_waits(current, now):
                if wait.lock_ts in came_by:
                    continue
                came_by[wait.lock_ts] = wait
                if wait.lock_ts == goal:
                    return _trace(came_by, start, goal)
                open_ends.append(wait.lock_ts)
        return None

    def _live_waits(self, start_ts: Timestamp, now: float) -> list[Wait]:
        """Return what a transaction waits for, and forget what was not told for too long."""
        waits = self._waits.get(start_ts)
        if waits is None:
            return []
        for lock_ts in [lock_ts for lock_ts, (_, told_at) in waits.items() if now - told_at > self._lifetime_s]:
            self.end_wait(start_ts, lock_ts)
        return [wait for wait, _told_at in waits.values()]


def _trace(came_by: dict[Timestamp, Wait], start: Timestamp, goal: Timestamp) -> tuple[Wait, ...]:
    path = [came_by[goal]]
    while path[-1].start_ts != start:
        path.append(came_by[path[-1].start_ts])
    return tuple(reversed(path))


def key_hash(key: bytes) -> int:
    """Return a number of 64 bits for a key: what clients know it by beside the key itself."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")

"""Sorted maps with versions: why a snapshot of the in-memory engine costs nothing.

A value is plain bytes, or a list of versions while open snapshots or cursors may need older ones::

    key a → b"7"                                     one version: every reader sees it
    key b → [(0, b"1"), (12, b"2"), (15, None)]      batch 12 made it b"2", batch 15 deleted it

A reader at batch number n sees the newest version whose number is not above n. `Pins` counts the numbers that are still
read at; the versions that no pin can see are dropped when the oldest pin goes.

Invariants
----------
1. Plain bytes were written by a batch at or below every pin, or there is no pin.
2. A list's numbers rise, and it is in `Pins.dirty` at its newest number or later.
3. `VersionedMap.shape` changes whenever a key enters or leaves the sorted map: iterators then seek anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from sortedcontainers import SortedDict

_Versions = list[tuple[int, bytes | None]]


class Pins:
    """The batch numbers that snapshots and iterators read at."""

    __slots__ = ("_counts", "dirty")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        """Readers per number. Numbers only grow, so the first entry is the oldest."""
        self.dirty: deque[tuple[int, VersionedMap, bytes]] = deque()
        """Keys that have a list of versions, with the number of a change; numbers rise."""

    def __bool__(self) -> bool:
        return bool(self._counts)

    @property
    def oldest(self) -> int | None:
        return next(iter(self._counts), None)

    def add(self, number: int) -> None:
        self._counts[number] = self._counts.get(number, 0) + 1

    def remove(self, number: int) -> None:
        was_oldest = number == self.oldest
        if self._counts[number] > 1:
            self._counts[number] -= 1
            return
        del self._counts[number]
        if was_oldest:
            self._clean()

    def _clean(self) -> None:
        """Drop the versions that no reader can see any more."""
        oldest = self.oldest
        while self.dirty and (oldest is None or self.dirty[0][0] <= oldest):
            _, versioned_map, key = self.dirty.popleft()
            versioned_map.prune(key, oldest)


class VersionedMap:
    """The pairs of one column family."""

    __slots__ = ("_pins", "pairs", "shape", "used_bytes")

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self.pairs: SortedDict[bytes, bytes | _Versions] = SortedDict()
        """A plain value, or versions where a pinned snapshot may need older ones; then the last is the newest, and may
        be None."""
        self.shape = 0
        """Changes whenever a key enters or leaves `pairs`."""
        self.used_bytes = 0
        """Bytes of the keys and values of the newest state."""

    def get(self, key: bytes) -> bytes | None:
        entry = self.pairs.get(key)
        return entry[-1][1] if isinstance(entry, list) else entry

    def get_at(self, key: bytes, number: int) -> bytes | None:
        entry = self.pairs.get(key)
        return version_at(entry, number) if isinstance(entry, list) else entry

    def set(self, key: bytes, value: bytes | None, number: int) -> bytes | None:
        """Give a key a new value, None to delete it; return the value before."""
        before = self.get(key)
        if before is not None:
            self.used_bytes -= len(key) + len(before)
        if value is not None:
            self.used_bytes += len(key) + len(value)
        if self._pins:
            self._add_version(key, value, number)
        elif value is None:
            self._remove(key)
        else:
            self.shape += key not in self.pairs
            self.pairs[key] = value
        return before

    def _add_version(self, key: bytes, value: bytes | None, number: int) -> None:
        entry = self.pairs.get(key)
        if entry is None:
            if value is not None:
                self.shape += 1
                self.pairs[key] = [(number, value)]
                self._pins.dirty.append((number, self, key))
            return
        if not isinstance(entry, list):
            entry = self.pairs[key] = [(0, entry)]
        if entry[-1][0] == number:
            entry[-1] = (number, value)
        else:
            entry.append((number, value))
        self._pins.dirty.append((number, self, key))

    def _remove(self, key: bytes) -> None:
        if key in self.pairs:
            self.shape += 1
            del self.pairs[key]

    def prune(self, key: bytes, oldest: int | None) -> None:
        """Drop the versions of a key that no reader at or above `oldest` (None: no reader but the newest) can see."""
        entry = self.pairs.get(key)
        if not isinstance(entry, list):
            return
        first = len(entry) - 1
        while oldest is not None and first > 0 and entry[first][0] > oldest:
            first -= 1
        del entry[:first]
        if len(entry) > 1 or (oldest is not None and entry[0][0] > oldest):
            return
        value = entry[0][1]
        if value is None:
            self._remove(key)
        else:
            self.pairs[key] = value


def version_at(entry: _Versions, number: int) -> bytes | None:
    """Return what a reader at batch `number` sees."""
    for written_at, value in reversed(entry):
        if written_at <= number:
            return value
    return None


def walk(
    source: VersionedMap, start: bytes, end: bytes | None, number: int, *, reverse: bool
) -> Generator[tuple[bytes, bytes]]:
    """Yield the pairs of a range as of batch `number`, which the caller has pinned. The map may change meanwhile."""
    pairs = source.pairs
    low: bytes | None = start
    high = end
    include_low = True
    while low is None or high is None or low < high:
        shape = source.shape
        key = None
        for key in pairs.irange(low, high, (include_low, False), reverse):
            entry = pairs[key]
            value = version_at(entry, number) if isinstance(entry, list) else entry
            if value is not None:
                yield key, value
                if source.shape != shape:
                    break
        else:
            return
        if reverse:
            high = key
        else:
            low, include_low = key, False

"""Garbage collection: delete what no reader at or above the safe point can see.

    safe point 35      k:  50 PUT · 40 LOCK · 30 PUT · 20 PUT · 10 PUT         50, 40 and 30 stay: a reader at 35 sees 30
                       k:  50 PUT · 30 DELETE · 20 PUT                          only 50 stays: a reader at 35 sees nothing
                       k:  30 ROLLBACK · 25 LOCK · 20 PUT · 10 PUT              only 20 stays

One pass walks through the commit records of a range, in slices of bounded work, and yields the changes of each, which the
caller replicates one after the other. It reads the state in which the pass began. That is safe while others write: what is
deleted was superseded at or below the safe point, and nothing can be committed down there any more (locks up to it were
resolved before, and prewrites from below it are refused).

Invariants
----------
1. The newest put at or below the safe point stays; so does everything above the safe point.
2. A delete goes after everything below it: whatever prefix of the changes is applied, no older version comes to light. So
a pass
   may be stopped or crash anywhere, and the next one does the rest.
3. A transaction that began at the safe point finds its own rollback: what stands at the safe point itself stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import CF_CODES, DELETE, DELETE_RANGE, Change
from pytinykv.transaction.commands import DeleteRange, Gc
from pytinykv.transaction.records import WriteKind, decode_write
from pytinykv.transaction.stored_keys import TS_BYTES, encoded_range, inverted, stored_key

if TYPE_CHECKING:
    from pytinykv.storage import Reader

_DEFAULT: Final = CF_CODES[ColumnFamily.DEFAULT]
_WRITE: Final = CF_CODES[ColumnFamily.WRITE]
_TRANSACTIONAL: Final = (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE)

_PUT: Final = WriteKind.PUT.value
_DELETED: Final = WriteKind.DELETE.value

SLICE_RECORDS_MAX: Final = 1000
"""Records that are looked at for one slice: a millisecond or two."""
SLICE_CHANGES_MAX: Final = 512


class GcSlice(msgspec.Struct, frozen=True):
    """A part of a pass."""

    changes: list[Change]
    """To be applied in the order of the slices; may be empty."""
    looked_at: int
    """How many commit records were looked at."""
    deleted: int
    """How many of them the changes delete."""


def collect(
    source: Reader, command: Gc, *, records_max: int = SLICE_RECORDS_MAX, changes_max: int = SLICE_CHANGES_MAX
) -> Iterator[GcSlice]:
    """Yield the slices of one pass over the range; lazily: a slice is worked out when it is asked for."""
    start, end = encoded_range(command.start, command.end)
    collector = _Collector(command)
    looked_at = 0
    with source.cursor(ColumnFamily.WRITE, start, end) as cursor:
        for stored, record in cursor.pairs():
            collector.look(stored, record)
            looked_at += 1
            if looked_at >= records_max or len(collector.changes) >= changes_max:
                yield collector.take(looked_at)
                looked_at = 0
    collector.end_key()
    yield collector.take(looked_at)


class _Collector:
    """The state of a pass: where it is among the versions of a key, newest first."""

    def __init__(self, command: Gc) -> None:
        self.changes: list[Change] = []
        """What the current slice deletes; `take` empties it."""
        self._deleted = 0
        """Versions that the current slice deletes; `take` sets it to 0."""
        self._from = inverted(command.safe_point)
        """Inverted timestamps from here on are at or below the safe point."""
        self._key = b""
        """Encoded."""
        self._has_newest = False
        """The newest put or delete at or below the safe point was met: all below goes."""
        self._delete: bytes | None = None
        """That one's stored key, if it is a delete: it goes at the end of the key."""

    def look(self, stored: bytes, record: bytes) -> None:
        """Look at the next commit record."""
        encoded, timestamp = stored[:-TS_BYTES], stored[-TS_BYTES:]
        if encoded != self._key:
            self.end_key()
            self._key = encoded
        if timestamp < self._from:
            return
        kind = record[0]
        if self._has_newest:
            self._drop(stored, record)
        elif kind == _PUT:
            self._has_newest = True
        elif kind == _DELETED:
            self._has_newest = True
            if timestamp != self._from:
                self._delete = stored
        elif timestamp != self._from:
            self._drop(stored, record)

    def _drop(self, stored: bytes, record: bytes) -> None:
        """Delete a record, and its value if that is in `default`."""
        self._deleted += 1
        if record[0] == _PUT:
            write = decode_write(record)
            if write.short_value is None:
                self.changes.append((DELETE, _DEFAULT, stored_key(self._key, write.start_ts)))
        self.changes.append((DELETE, _WRITE, stored))

    def end_key(self) -> None:
        """Take note that a key has no older records."""
        if self._delete is not None:
            self._deleted += 1
            self.changes.append((DELETE, _WRITE, self._delete))
        self._delete = None
        self._has_newest = False

    def take(self, looked_at: int) -> GcSlice:
        """Return what has come together, and begin anew."""
        taken = GcSlice(self.changes, looked_at, self._deleted)
        self.changes, self._deleted = [], 0
        return taken


def delete_range(command: DeleteRange) -> list[Change]:
    """Return the changes of a DeleteRange over the part of a region. Readers and transactions there are not asked."""
    start, end = encoded_range(command.start, command.end)
    assert end is not None, "the end of a region without one is that of its data: raftstore.keys knows it"
    return [(DELETE_RANGE, CF_CODES[cf], start, end) for cf in _TRANSACTIONAL]

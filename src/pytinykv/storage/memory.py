"""The engine of tests and simulation: sorted maps in memory, with a crash that loses what was not synced.

How it works
------------
A write gets the next *batch number*. `versions.py` holds the pairs of a column family with the older versions that open
snapshots and cursors still need, so that a snapshot is just a pinned batch number and costs nothing.

The *journal* remembers for each batch that is not synced what it replaced. `crash` undoes a random number of batches from
its end: what a power cut does to a write-ahead log. A sync that takes (virtual) time is `begin_sync` when it is asked
for and `complete_sync` when it is over: batches written in between stay at risk.

`faults` makes the disk fail on command. It belongs to the disk, so it stays over crashes and reopening.

Left out: files. Only `export_sst` and `checkpoint` write any, in the format of `pair_file.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Self

from pytinykv.storage import pair_file
from pytinykv.storage.engine import ColumnFamily, Reader, WriteBatch
from pytinykv.storage.errors import DiskFullError, EngineClosedError, EngineError
from pytinykv.storage.handles import ByFamily, Dependents
from pytinykv.storage.versions import Pins, VersionedMap, walk

_CHANGE_OVERHEAD_BYTES: Final = 8

# One change: (family, key, value), value None for a deletion. A range deletion has its end as a fourth member.
_Change = tuple[VersionedMap, bytes, bytes | None] | tuple[VersionedMap, bytes, None, bytes]
# What a batch replaced, in the order of its changes: (family, key, value before or None).
_Undo = list[tuple[VersionedMap, bytes, bytes | None]]


@dataclass(kw_only=True)
class Faults:
    """What goes wrong with the disk, as long as it is set."""

    capacity_bytes: int | None = None
    """A write that would make keys and values exceed this raises DiskFullError."""
    write_error: EngineError | None = None
    """Raised by the next write; nothing of the batch is applied."""
    sync_error: EngineError | None = None
    """Raised by the next sync; what it should have covered stays at risk."""


class MemoryWriteBatch:
    """A batch for `MemoryEngine.write`."""

    __slots__ = ("_families", "changes", "size_bytes", "spent")

    def __init__(self, families: ByFamily[VersionedMap]) -> None:
        self._families = families
        self.changes: list[_Change] = []
        """In the order in which they were asked for; a later one of the same key wins."""
        self.size_bytes = 0
        """Keys, values and `_CHANGE_OVERHEAD_BYTES` for each change."""
        self.spent = False
        """Set by `MemoryEngine.write`, also by one that fails: a batch is written once."""

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None:
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        self.changes.append((self._families[cf], key, value))
        self.size_bytes += len(key) + len(value) + _CHANGE_OVERHEAD_BYTES

    def delete(self, cf: ColumnFamily, key: bytes) -> None:
        assert isinstance(key, bytes)
        self.changes.append((self._families[cf], key, None))
        self.size_bytes += len(key) + _CHANGE_OVERHEAD_BYTES

    def delete_range(self, cf: ColumnFamily, start: bytes, end: bytes) -> None:
        family = self._families[cf]
        if start < end:
            self.changes.append((family, start, None, end))
            self.size_bytes += len(start) + len(end) + _CHANGE_OVERHEAD_BYTES

    def __len__(self) -> int:
        return len(self.changes)


_CLOSED: Final = "the engine, snapshot or cursor is closed"
_NOWHERE: Final = (None, b"")


def _nothing() -> Generator[tuple[bytes, bytes]]:
    yield from ()


class MemoryCursor:
    """A `Cursor` over one state, which it pins until it is closed or dropped."""

    __slots__ = (
        "__weakref__",
        "_end",
        "_family",
        "_is_forward",
        "_number",
        "_pairs",
        "_pins",
        "_start",
        "_value",
        "key",
    )

    def __init__(self, family: VersionedMap, start: bytes, end: bytes | None, pins: Pins, number: int) -> None:
        self.key: bytes | None = None
        """Of the pair on which the cursor stands; None before the first move, behind the end, and when closed."""
        self._value = b""
        """Of that pair; empty if there is none."""
        self._start = start
        self._end = end
        self._family: VersionedMap | None = family
        """None once closed."""
        self._number = number
        """The batch number whose state it shows; pinned until `_pins` is None."""
        self._pairs: Generator[tuple[bytes, bytes]] = _nothing()
        """The pairs that follow the one on which the cursor stands."""
        self._is_forward = True
        """In which direction they follow."""
        self._pins: Pins | None = pins
        """None once the pin is given back, which happens once."""
        pins.add(number)

    def value(self) -> bytes:
        assert self.key is not None, "the cursor stands on no pair"
        return self._value

    def seek(self, key: bytes) -> bytes | None:
        return self._move(max(key, self._start), self._end, is_forward=True)

    def seek_for_prev(self, key: bytes) -> bytes | None:
        return self._move(self._start, self._at_or_before(key), is_forward=False)

    def _at_or_before(self, key: bytes) -> bytes:
        """Return the exclusive end of the pairs at or before a key."""
        above = key + b"\x00"
        return above if self._end is None else min(above, self._end)

    def seek_to_first(self) -> bytes | None:
        return self._move(self._start, self._end, is_forward=True)

    def seek_to_last(self) -> bytes | None:
        return self._move(self._start, self._end, is_forward=False)

    def next(self) -> bytes | None:
        if self.key is None or self._is_forward:
            return self._step()
        return self._move(self.key + b"\x00", self._end, is_forward=True)

    def prev(self) -> bytes | None:
        if self.key is None or not self._is_forward:
            return self._step()
        return self._move(self._start, self.key, is_forward=False)

    def pairs(self, *, reverse: bool = False, seek: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        start, end = self._start, self._end
        if seek is not None and reverse:
            end = self._at_or_before(seek)
        elif seek is not None:
            start = max(seek, start)
        self._walk(start, end, is_forward=not reverse)
        yield from self._pairs
        if self._family is None:
            raise EngineClosedError(_CLOSED)

    def _move(self, start: bytes, end: bytes | None, *, is_forward: bool) -> bytes | None:
        self._walk(start, end, is_forward=is_forward)
        return self._step()

    def _walk(self, start: bytes, end: bytes | None, *, is_forward: bool) -> None:
        if self._family is None:
            raise EngineClosedError(_CLOSED)
        self.key = None
        self._is_forward = is_forward
        self._pairs = walk(self._family, start, end, self._number, reverse=not is_forward)

    def _step(self) -> bytes | None:
        """Go on in the direction of the walk under way."""
        self.key, self._value = next(self._pairs, _NOWHERE)
        if self.key is None and self._family is None:
            raise EngineClosedError(_CLOSED)
        return self.key

    def close(self) -> None:
        self._family = self.key = None
        self._pairs.close()
        pins, self._pins = self._pins, None
        if pins is not None:
            pins.remove(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class MemorySnapshot:
    """The state after one batch number of a `MemoryEngine`."""

    __slots__ = ("__weakref__", "_dependents", "_families", "_number", "_pins")

    def __init__(self, families: ByFamily[VersionedMap], pins: Pins, number: int) -> None:
        self._families = ByFamily(families)
        """Emptied by `close`, after which every read raises `EngineClosedError`."""
        self._dependents = Dependents()
        """Open cursors; closed before the snapshot is."""
        self._pins: Pins | None = pins
        """None once the pin is given back, which happens once."""
        self._number = number
        """The batch number whose state it shows."""
        pins.add(number)

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        return self._families[cf].get_at(key, self._number)

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> MemoryCursor:
        family = self._families[cf]
        assert self._pins is not None
        cursor = MemoryCursor(family, start, end, self._pins, self._number)
        self._dependents.add(cursor)
        return cursor

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.cursor(cf, start, end).pairs(reverse=reverse)

    def close(self) -> None:
        self._dependents.close_all()
        self._families.clear()
        pins, self._pins = self._pins, None
        if pins is not None:
            pins.remove(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class MemoryEngine:
    """An `Engine` without a disk. A new one is empty; `crash` and `reopen` hand over what is left to a successor."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        """Set by tests and the simulated disk at any time; handed on to successors."""
        self._pins = Pins()
        """The batch numbers that snapshots and cursors still show; older versions are kept for them only."""
        self._families: ByFamily[VersionedMap] = ByFamily({cf: VersionedMap(self._pins) for cf in ColumnFamily})
        """All pairs. Emptied when the engine is closed or has crashed; then every call raises `EngineClosedError`."""
        self._dependents = Dependents()
        """Open snapshots and cursors; closed before the engine is."""
        self._failure: EngineError | None = None
        """The first error of a write or sync; raised by every later one, as what it left is not known."""
        self._written = 0
        """Number of the newest batch that is visible."""
        self._synced = 0
        """Number of the newest batch that a crash can't take."""
        self._journal: deque[tuple[int, _Undo]] = deque()
        """What batches `_synced` + 1 to `_written` replaced, oldest first."""
        self._left: ByFamily[VersionedMap] | None = None
        """What a clean `close` left behind for `reopen`."""

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        return self._families[cf].get(key)

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> MemoryCursor:
        cursor = MemoryCursor(self._families[cf], start, end, self._pins, self._written)
        self._dependents.add(cursor)
        return cursor

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.cursor(cf, start, end).pairs(reverse=reverse)

    def snapshot(self) -> MemorySnapshot:
        if not self._families:
            raise EngineClosedError("the engine is closed")
        snapshot = MemorySnapshot(self._families, self._pins, self._written)
        self._dependents.add(snapshot)
        return snapshot

    # --- writing ------------------------------------------------------------------------------------------------

    def write_batch(self) -> MemoryWriteBatch:
        return MemoryWriteBatch(self._families)

    def write(self, batch: WriteBatch) -> None:
        assert isinstance(batch, MemoryWriteBatch)
        self._check_usable()
        if batch.spent:
            raise EngineError("this batch was written before: make a new one")
        if not batch.changes:
            return
        batch.spent = True
        if self.faults.write_error is not None:
            raise self._fail(self.faults.write_error)
        if not self._has_room(batch.size_bytes):
            raise self._fail(DiskFullError(f"the simulated disk holds {self.faults.capacity_bytes} bytes"))
        self._written += 1
        self._journal.append((self._written, self._apply(batch.changes, self._written)))

    def _has_room(self, size_bytes: int) -> bool:
        capacity = self.faults.capacity_bytes
        return capacity is None or self.used_bytes + size_bytes <= capacity

    @staticmethod
    def _apply(changes: list[_Change], number: int) -> _Undo:
        undo: _Undo = []
        for change in changes:
            family, key = change[0], change[1]
            if len(change) == 3:
                undo.append((family, key, family.set(key, change[2], number)))
                continue
            for found, _ in list(walk(family, key, change[3], number, reverse=False)):
                undo.append((family, found, family.set(found, None, number)))
        return undo

    def sync(self) -> None:
        self.complete_sync(self.begin_sync())

    def begin_sync(self) -> int:
        """Return a ticket for `complete_sync` that covers every batch written until now."""
        self._check_usable()
        return self._written

    def complete_sync(self, ticket: int) -> None:
        """Make everything that the ticket covers durable.

        Raises:
            EngineError: as `Engine.sync` does.
        """
        self._check_usable()
        if self.faults.sync_error is not None:
            raise self._fail(self.faults.sync_error)
        self._synced = max(self._synced, ticket)
        while self._journal and self._journal[0][0] <= self._synced:
            self._journal.popleft()

    @property
    def failure(self) -> EngineError | None:
        """The first error of a write or sync; None while all is well."""
        return self._failure

    @property
    def unsynced_batches(self) -> int:
        """How many batches a crash could take."""
        return len(self._journal)

    @property
    def used_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(family.used_bytes for family in self._families.values())

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if not self._families:
            raise EngineClosedError("the engine is closed")

    def _fail(self, error: EngineError) -> EngineError:
        if self._failure is None:
            self._failure = error
        return self._failure

    # --- files --------------------------------------------------------------------------------------------------

    def export_sst(self, cf: ColumnFamily, reader: Reader, start: bytes, end: bytes | None, path: Path) -> int:
        return pair_file.write(path, reader.scan(cf, start, end))

    def ingest_sst(self, cf: ColumnFamily, path: Path) -> None:
        self.sync()
        family = self._families[cf]
        try:
            pairs = pair_file.read(path)
        except OSError as error:
            raise EngineError(f"can't ingest {path}: {error}") from error
        if not self._has_room(sum(len(key) + len(value) for key, value in pairs)):
            raise DiskFullError(f"the simulated disk holds {self.faults.capacity_bytes} bytes")
        self._written += 1
        self._synced = self._written
        for key, value in pairs:
            family.set(key, value, self._written)
        path.unlink()

    def checkpoint(self, path: Path) -> None:
        self._check_usable()
        if path.exists():
            raise EngineError(f"{path} exists: a checkpoint needs a new directory")
        path.mkdir()
        for cf in ColumnFamily:
            self.export_sst(cf, self, b"", None, path / f"{cf.value}.pairs")

    @classmethod
    def open_checkpoint(cls, path: Path) -> MemoryEngine:
        """Make an engine with the content of a checkpoint."""
        engine = cls()
        for cf in ColumnFamily:
            file = path / f"{cf.value}.pairs"
            if file.exists():
                for key, value in pair_file.read(file):
                    engine._families[cf].set(key, value, 0)
        return engine

    def approximate_size_bytes(self, cf: ColumnFamily, start: bytes, end: bytes | None) -> int:
        return sum(len(key) + len(value) for key, value in self.scan(cf, start, end))

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if not self._families:
            return
        try:
            if self._failure is None:
                self.sync()
        finally:
            self._left = self._release()

    def reopen(self) -> MemoryEngine:
        """Open again what a closed engine left behind. After a failure that includes nothing unsynced."""
        left, self._left = self._left, None
        if left is None:
            raise EngineError("only a closed engine can be reopened, and only once")
        if self._failure is not None:
            self._undo(keep=0)
        return self._succeed(left)

    def crash(self, rng: Random) -> MemoryEngine:
        """Cut the power and start again: return the successor, which holds all that was synced, and what `rng` leaves
        of the batches that were not: some number of the oldest, each whole. This engine is closed from now on.
        """
        if not self._families:
            raise EngineClosedError("the engine is closed")
        keep = rng.randint(0, len(self._journal))
        left = self._release()
        self._undo(keep=keep)
        return self._succeed(left)

    def _release(self) -> ByFamily[VersionedMap]:
        """Close everything that reads; return the families, of which only the newest state is left."""
        self._dependents.close_all()
        left = ByFamily(self._families)
        self._families.clear()
        return left

    def _undo(self, *, keep: int) -> None:
        """Take back the unsynced batches but the oldest `keep`."""
        while len(self._journal) > keep:
            number, undo = self._journal.pop()
            for family, key, value in reversed(undo):
                family.set(key, value, number)

    def _succeed(self, left: ByFamily[VersionedMap]) -> MemoryEngine:
        successor = MemoryEngine(self.faults)
        successor._pins = self._pins
        successor._families = left
        successor._written = successor._synced = self._written
        return successor

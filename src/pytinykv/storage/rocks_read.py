"""Iterators and snapshots of the RocksDB engine.

Four traps of rocksdict 0.3 shape this module; `tests/storage/test_rocks_traps.py` shows each:

1. `Rdict.items()` ends silently where RocksDB met a damaged block. A bare `RdictIter` tells: ask `status` at the end.
2. `ReadOptions.set_iterate_lower_bound` sets the *upper* bound. So a reverse scan checks its start here.
3. The upper bound is kept as a bare pointer into the bytes object. So the scan must hold that object.
4. `Snapshot.iter()` and its kin read the newest state, not the snapshot's. Only `Snapshot[key]` is right.

Because of the fourth, and because it is faster, a snapshot here is *lazy*: as long as nothing has been written since it was
taken, it reads the engine itself. The engine *pins* it before the next write: it then takes RocksDB's snapshots for `get`,
and one iterator per column family, which keeps that state, for all later scans. Most snapshots are closed before that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import rocksdict

from pytinykv.storage.engine import ColumnFamily
from pytinykv.storage.errors import EngineClosedError, EngineError
from pytinykv.storage.handles import ByFamily, Dependents
from pytinykv.storage.rocks_errors import translate

EMPTY_SCAN: Final[tuple[tuple[bytes, bytes], ...]] = ()
_KEY_NOT_FOUND: Final = ("key not found",)


def _nothing() -> None:
    return None


def _raise_closed() -> Any:
    raise EngineClosedError("the engine or snapshot that this iterator reads is closed")


class RocksScan(Iterator[tuple[bytes, bytes]]):
    """An iterator over a range with a RocksDB iterator of its own."""

    __slots__ = ("__weakref__", "_advance", "_at_first", "_end", "_key", "_root", "_start", "_status", "_value")

    def __init__(self, column: Any, start: bytes, end: bytes | None, root: Path, *, reverse: bool) -> None:
        self._end = end
        """Keeps the bound alive: trap 3."""
        self._root = root
        self._start = start if reverse and start else None
        self._at_first = True
        try:
            if end is None:
                iterator = column.iter()
            else:
                options = rocksdict.ReadOptions()
                options.set_iterate_upper_bound(end)
                iterator = column.iter(options)
            if reverse:
                iterator.seek_to_last()
            else:
                iterator.seek(start)
        except Exception as error:
            raise translate(error, root) from error
        self._advance = iterator.prev if reverse else iterator.next
        self._key, self._value, self._status = iterator.key, iterator.value, iterator.status

    def __next__(self) -> tuple[bytes, bytes]:
        if self._at_first:
            self._at_first = False
        else:
            self._advance()
        key = self._key()
        if key is None or (self._start is not None and key < self._start):
            self._finish()
            raise StopIteration
        return key, self._value()

    def _finish(self) -> None:
        """Raise if the end is no end but a damaged file; else release the iterator."""
        try:
            self._status()
        except Exception as error:
            raise translate(error, self._root) from error
        self._advance = self._value = self._status = self._key = _nothing

    def close(self) -> None:
        self._at_first = True
        self._advance = self._value = self._status = self._key = _raise_closed


class _SharedIterator:
    """A pinned snapshot's iterator of one column family, and the scan that it stands still for."""

    __slots__ = ("iterator", "owner", "root")

    def __init__(self, column: Any, root: Path) -> None:
        self.iterator = column.iter()
        self.owner: _SharedScan | None = None
        self.root = root

    def check(self) -> None:
        try:
            self.iterator.status()
        except Exception as error:
            raise translate(error, self.root) from error


class _SharedScan(Iterator[tuple[bytes, bytes]]):
    """An iterator over a range of a pinned snapshot. It seeks anew whenever another scan has used the iterator."""

    __slots__ = ("__weakref__", "_end", "_last", "_reverse", "_shared", "_start")

    def __init__(self, shared: _SharedIterator, start: bytes, end: bytes | None, *, reverse: bool) -> None:
        self._shared: _SharedIterator | None = shared
        self._start: bytes | None = start
        self._end = end
        self._reverse = reverse
        self._last: bytes | None = None
        """The key yielded last."""

    def __next__(self) -> tuple[bytes, bytes]:
        if self._shared is None:
            _raise_closed()
        assert self._shared is not None
        if self._start is None:
            raise StopIteration
        iterator = self._shared.iterator
        self._move(self._shared, iterator)
        key = iterator.key()
        if key is None or key < self._start or (self._end is not None and key >= self._end):
            if key is None:
                self._shared.check()
            self._start = self._shared.owner = None
            raise StopIteration
        self._last = key
        return key, iterator.value()

    def _move(self, shared: _SharedIterator, iterator: Any) -> None:
        """Put the iterator on the key after the last one, wherever it was before."""
        if shared.owner is self:
            if self._reverse:
                iterator.prev()
            else:
                iterator.next()
            return
        shared.owner = self
        if not self._reverse:
            iterator.seek(self._start if self._last is None else self._last + b"\x00")
            return
        bound = self._end if self._last is None else self._last
        if bound is None:
            iterator.seek_to_last()
            return
        iterator.seek_for_prev(bound)
        if iterator.key() == bound:
            iterator.prev()

    def close(self) -> None:
        self._shared = None


class _Pinned:
    """What a pinned snapshot reads."""

    __slots__ = ("iterators", "snapshots")

    def __init__(self, columns: ByFamily[Any], root: Path) -> None:
        self.snapshots = {cf: column.snapshot() for cf, column in columns.items()}
        self.iterators = {cf: _SharedIterator(column, root) for cf, column in columns.items()}


class RocksSnapshot:
    """One state of a `RocksEngine`. RocksDB keeps the old versions as long as it is open: close it soon.

    May be read in another thread than the engine's, by one thread at a time: every read looks *afterwards* whether the
    snapshot was pinned meanwhile, and if so reads again from the pin.
    """

    __slots__ = ("__weakref__", "_columns", "_dependents", "_gets", "_pinned", "_root")

    def __init__(self, columns: ByFamily[Any], gets: ByFamily[Any], root: Path) -> None:
        self._columns = columns
        self._gets = gets
        self._pinned: _Pinned | None = None
        self._dependents: Dependents | None = None
        self._root = root

    def pin(self) -> None:
        """Take hold of the present state for good, because the engine is about to be written."""
        if self._pinned is None and self._columns:
            self._pinned = _Pinned(self._columns, self._root)

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        try:
            value = self._gets[cf](key)
            if self._pinned is None:
                return value  # type: ignore[no-any-return]  # rocksdict has no types
            return self._pinned.snapshots[cf][key]  # type: ignore[no-any-return]  # as above
        except EngineError:
            raise
        except Exception as error:
            if error.args == _KEY_NOT_FOUND:
                return None
            raise translate(error, self._root) from error

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        column = self._columns[cf]
        if end is not None and start >= end:
            return iter(EMPTY_SCAN)
        scan: RocksScan | _SharedScan
        if self._pinned is None:
            scan = RocksScan(column, start, end, self._root, reverse=reverse)
        if self._pinned is not None:
            scan = _SharedScan(self._pinned.iterators[cf], start, end, reverse=reverse)
        if self._dependents is None:
            self._dependents = Dependents()
        self._dependents.add(scan)
        return scan

    def close(self) -> None:
        if self._dependents is not None:
            self._dependents.close_all()
        self._pinned = None
        self._columns = self._gets = CLOSED

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


CLOSED: Final[ByFamily[Any]] = ByFamily()
"""The empty table that closed snapshots share."""

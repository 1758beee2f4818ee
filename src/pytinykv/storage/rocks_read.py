"""Cursors and snapshots of the RocksDB engine.

Four traps of rocksdict 0.3 shape this module; `tests/storage/test_rocks_traps.py` shows each:

1. `Rdict.items()` ends silently where RocksDB met a damaged block. A bare `RdictIter` tells: ask `status` at the end.
2. `ReadOptions.set_iterate_lower_bound` sets the *upper* bound. So a cursor checks its start here.
3. The upper bound is kept as a bare pointer into the bytes object. So the cursor must hold that object.
4. `Snapshot.iter()` and its kin read the newest state, not the snapshot's. Only `Snapshot[key]` is right.

Because of the fourth, and because it is faster, a snapshot here is *lazy*: as long as nothing has been written since it was
taken, it reads the engine itself. The engine *pins* it before the next write: it then takes RocksDB's snapshots for `get`,
and one iterator per column family, which keeps that state, for all later cursors. Most snapshots are closed before that.
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

_KEY_NOT_FOUND: Final = ("key not found",)


class _Closed:
    """Stands in for the RocksDB iterator of a closed cursor."""

    def __getattr__(self, name: str) -> Any:
        raise EngineClosedError("the engine, snapshot or cursor is closed")


_CLOSED_ITERATOR: Final[Any] = _Closed()


class _Shared:
    """The RocksDB iterator of one column family that all cursors of a pinned snapshot use in turn."""

    __slots__ = ("raw", "user")

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.user = 0
        """The `id` of the cursor that has moved it last. (No reference: each would keep the other alive.)"""


class RocksCursor:
    """A `Cursor` on a RocksDB iterator of its own, or on a shared one.

    On a shared one it seeks its key again before it goes on, whenever another cursor has moved the iterator meanwhile.
    (rocksdict can't make a second iterator on the state of a snapshot: trap 4.)

    Invariant: `key` is None, or the iterator stands on it, or another cursor is the user of the shared iterator.
    """

    __slots__ = ("__weakref__", "_bound", "_end", "_raw", "_root", "_shared", "_start", "key")

    def __init__(self, raw: Any, start: bytes, end: bytes | None, root: Path, shared: _Shared | None = None) -> None:
        self.key: bytes | None = None
        """Where it stands; None where there is no pair, and before the first seek."""
        self._raw = raw
        """RocksDB's iterator; replaced by one that raises once closed."""
        self._start = start
        self._end = end
        """Exclusive; also keeps the bound alive that an own iterator was given: trap 3."""
        self._bound = None if shared is None else end
        """The end, if the iterator does not know it."""
        self._shared = shared
        """What tells who moved the iterator last, if it is not its own; None once closed."""
        self._root = root

    def value(self) -> bytes:
        assert self.key is not None, "the cursor stands on no pair"
        if self._shared is not None:
            self._take(self._shared)
        return self._raw.value()  # type: ignore[no-any-return]  # rocksdict has no types

    def seek(self, key: bytes) -> bytes | None:
        self.key = None
        if self._shared is not None:
            self._shared.user = id(self)
        self._raw.seek(max(self._start, key))
        return self._arrive()

    def seek_for_prev(self, key: bytes) -> bytes | None:
        if self._end is not None and key >= self._end:
            return self.seek_to_last()
        self.key = None
        if self._shared is not None:
            self._shared.user = id(self)
        self._raw.seek_for_prev(key)
        return self._arrive()

    def seek_to_first(self) -> bytes | None:
        return self.seek(self._start)

    def seek_to_last(self) -> bytes | None:
        self.key = None
        if self._shared is not None:
            self._shared.user = id(self)
        if self._bound is None:
            self._raw.seek_to_last()
        else:
            self._raw.seek_for_prev(self._bound)
            if self._raw.key() == self._bound:
                self._raw.prev()
        return self._arrive()

    def next(self) -> bytes | None:
        if self.key is None:
            self._raw.valid()  # raises if the cursor is closed
            return None
        if self._shared is not None:
            self._take(self._shared)
        self._raw.next()
        return self._arrive()

    def prev(self) -> bytes | None:
        if self.key is None:
            self._raw.valid()  # raises if the cursor is closed
            return None
        if self._shared is not None:
            self._take(self._shared)
        self._raw.prev()
        return self._arrive()

    def pairs(self, *, reverse: bool = False, seek: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        # What `next`, `prev` and `value` do, without a call for each pair.
        if seek is None:
            key = self.seek_to_last() if reverse else self.seek_to_first()
        else:
            key = self.seek_for_prev(seek) if reverse else self.seek(seek)
        if self._shared is None and not reverse:
            yield from self._own_pairs(key)
            return
        start = self._start if reverse else None
        bound = None if reverse else self._bound
        while key is not None and (start is None or key >= start) and (bound is None or key < bound):
            self.key = key
            yield key, self._raw.value()
            if self._shared is not None:
                self._take(self._shared)
            if reverse:
                self._raw.prev()
            else:
                self._raw.next()
            key = self._raw.key()
        self.key = None
        if key is None:
            self._check()

    def _own_pairs(self, key: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield what follows on an iterator of its own, which knows the end: the way of nearly all scans."""
        raw = self._raw
        read_key, read_value, step = raw.key, raw.value, raw.next
        while key is not None:
            self.key = key
            yield key, read_value()
            if self._raw is not raw:  # closed meanwhile
                break
            step()
            key = read_key()
        self.key = None
        self._check()

    def _take(self, shared: _Shared) -> None:
        """Put the shared iterator on this cursor's key, if another cursor has moved it."""
        if shared.user != id(self):
            shared.user = id(self)
            self._raw.seek(self.key)

    def _arrive(self) -> bytes | None:
        """Note where the iterator stands."""
        key = self._raw.key()
        if key is None:
            self._check()
        elif key < self._start or (self._bound is not None and key >= self._bound):
            key = None
        self.key = key
        return key  # type: ignore[no-any-return]  # rocksdict has no types

    def _check(self) -> None:
        """Raise if the end is no end but a damaged file."""
        raw = self._raw
        if raw is _CLOSED_ITERATOR:
            raw.status()
        try:
            raw.status()
        except Exception as error:
            raise translate(error, self._root) from error

    def close(self) -> None:
        self.key = self._shared = None
        self._raw = _CLOSED_ITERATOR

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_cursor(column: Any, start: bytes, end: bytes | None, root: Path) -> RocksCursor:
    """Return a cursor with an iterator of its own, on the newest state of a column family."""
    try:
        if end is None:
            raw = column.iter()
        else:
            options = rocksdict.ReadOptions()
            options.set_iterate_upper_bound(end)
            raw = column.iter(options)
    except Exception as error:
        raise translate(error, root) from error
    return RocksCursor(raw, start, end, root)


class _Pinned:
    """What a pinned snapshot reads."""

    __slots__ = ("iterators", "snapshots")

    def __init__(self, columns: ByFamily[Any]) -> None:
        self.snapshots = {cf: column.snapshot() for cf, column in columns.items()}
        self.iterators = {cf: _Shared(column.iter()) for cf, column in columns.items()}


class RocksSnapshot:
    """One state of a `RocksEngine`. RocksDB keeps the old versions as long as it is open: close it soon.

    May be read in another thread than the engine's, by one thread at a time: every read looks *afterwards* whether the
    snapshot was pinned meanwhile, and if so reads again from the pin.
    """

    __slots__ = ("__weakref__", "_columns", "_dependents", "_gets", "_pinned", "_root")

    def __init__(self, columns: ByFamily[Any], gets: ByFamily[Any], root: Path) -> None:
        self._columns = columns
        """The engine's column families; `CLOSED` once the snapshot is closed."""
        self._gets = gets
        """The engine's own tables; `CLOSED` once the snapshot is closed."""
        self._pinned: _Pinned | None = None
        """Set by `pin`, once; from then on the engine itself may show a later state."""
        self._dependents: Dependents | None = None
        """Open cursors; made with the first one, since most snapshots have none."""
        self._root = root

    def pin(self) -> None:
        """Take hold of the present state for good, because the engine is about to be written."""
        if self._pinned is None and self._columns:
            self._pinned = _Pinned(self._columns)

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

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> RocksCursor:
        column = self._columns[cf]
        cursor = open_cursor(column, start, end, self._root) if self._pinned is None else None
        if cursor is None or self._pinned is not None:
            assert self._pinned is not None
            shared = self._pinned.iterators[cf]
            cursor = RocksCursor(shared.raw, start, end, self._root, shared)
        if self._dependents is None:
            self._dependents = Dependents()
        self._dependents.add(cursor)
        return cursor

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.cursor(cf, start, end).pairs(reverse=reverse)

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

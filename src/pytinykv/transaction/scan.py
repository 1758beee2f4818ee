"""Reading ranges at a timestamp: what `get` would find at each key, in key order or backwards, row by row.

    write CF, forward     k1: 30 · 20 · 10      k2: 15       k3: 40          at version 25
    yields                k1: what 20 wrote     k2: 15's     nothing

Locks of the range are merged in: a locked key yields an error in place of its value, and the scan goes on behind it, so
that a client can resolve all locks of a page at once. A key that is only locked, and has no version yet, is such a row,
too.

A scan is a generator: it may be left suspended while others are served. It has its cursors from the beginning, so all of it
shows the state of the moment at which its first row was asked for, whatever is written meanwhile.

The first rows, `ROWS_AHEAD` at most, are looked up together, before the first lock. What RocksDB has deleted stays in the way
of a search until it is compacted, and that is every lock that ever was; in a large range without a lock the search for the
first one would step over them all, for each page again. So there are two cursors for locks: one ends with the rows that were
looked up ahead, and only a scan that goes on behind them moves the other.

What is stepped over without a row, deleted keys, versions that are too new, locks that do not matter, may be any number.
`scan_in_steps` says so each `RECORDS_PER_STEP` of them, for who has others to serve. When that happens among the rows
that are looked up ahead, that ends these: the cursors for locks are made then, in the same step.

The loops are written for the case that nearly every row is: one version, visible, short, unlocked. They compare stored
keys as bytes and look at a record's first byte; only what is different is decoded (invariant:
`test_scan_agrees_with_get`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from pytinykv.storage import ColumnFamily
from pytinykv.transaction.commands import Isolation, ReadView, Scan
from pytinykv.transaction.concurrency import lock_in_the_way
from pytinykv.transaction.errors import SnapshotTooOld, TxnError, TxnErrorRaised
from pytinykv.transaction.reader import missing_value, newer_version, reads_through
from pytinykv.transaction.records import NO_TS, LockKind, WriteKind, decode_lock, decode_write, short_value_of_put
from pytinykv.transaction.results import Pair
from pytinykv.transaction.stored_keys import (
    ABOVE_VERSIONS,
    GROUP_BYTES,
    TS_BYTES,
    encode_bytes,
    encoded_range,
    inverted,
    stored_key,
    timestamp_of,
    user_groups,
    user_key,
)
from pytinykv.wire.timestamp import Timestamp

if TYPE_CHECKING:
    from pytinykv.storage import Cursor, Reader

STEPS_MAX: Final = 16
"""Records of one key that are stepped over before a seek takes their place."""

ROWS_AHEAD: Final = 1024
"""Rows that are looked up before the locks among them, at most: as many as clients ask for, and a millisecond's work."""

RECORDS_PER_STEP: Final = 256
"""Records and locks that are stepped over before a scan in steps says so."""

_PUT: Final = WriteKind.PUT.value
_DELETE: Final = WriteKind.DELETE.value
_CHANGES: Final = (_PUT, _DELETE)
_MARKER: Final = -TS_BYTES - 1
"""Where in a stored key the byte stands that tells how much of the last group is padding."""
_LAST_GROUP: Final = _MARKER - GROUP_BYTES
"""Where in a stored key the last group of the encoded key begins."""


class _Locked(NamedTuple):
    """A lock that matters to a scan."""

    key: bytes
    error: TxnError | None
    """Why the read must not pass; None: it is read through, as if it were committed."""
    value: bytes | None = None
    """What is read through it; None: a delete."""
    is_step: bool = False
    """It does not matter after all: so many locks up to here did not."""


class _Unread(NamedTuple):
    """A PUT whose value must be looked up: it is read when the row is taken, since it may be large."""

    key: bytes
    encoded: bytes
    record: bytes


_Found = Pair | _Unread
"""What stands for a key before locks are looked at."""


def scan(source: Reader, command: Scan, *, safe_point: Timestamp = NO_TS) -> Iterator[Pair]:
    """Yield the rows that the command asks for.

    Raises:
        TxnErrorRaised: SnapshotTooOld, before the first row.
    """
    return (row for row in scan_in_steps(source, command, safe_point=safe_point) if row is not None)


def scan_in_steps(source: Reader, command: Scan, *, safe_point: Timestamp = NO_TS) -> Iterator[Pair | None]:
    """As `scan`, with None whenever `RECORDS_PER_STEP` records, more or less, were stepped over that made no row."""
    view = command.view
    if view.version < safe_point:
        raise TxnErrorRaised(SnapshotTooOld(key=command.start, start_ts=view.version, safe_point=safe_point))
    left = command.limit
    if left <= 0:
        return
    start, end = encoded_range(command.start, command.end)
    with ExitStack() as stack:
        writes = stack.enter_context(source.cursor(ColumnFamily.WRITE, start, end))
        values = stack.enter_context(source.cursor(ColumnFamily.DEFAULT, start, end))
        rows = _Rows(writes, values, command)
        # It and `rows` refer to each other: unclosed it would keep RocksDB's iterator, and the database, until a collection.
        stack.callback(rows.found.close)
        ahead: list[_Found] = []
        edge: bytes | None = None
        """Ends the part of the range that was looked at, if not all of it was."""
        ends_with_step = False
        for found in rows.found:
            if found is None:
                edge, ends_with_step = rows.position, True
                break
            ahead.append(found)
            if len(ahead) >= min(left, ROWS_AHEAD):
                edge = encode_bytes(found.key) if command.reverse else encode_bytes(found.key) + b"\0"
                break
        portions: list[tuple[Iterable[_Found | None], tuple[bytes, bytes | None]]] = [(ahead, (start, end))]
        if edge is not None:
            bounds = [(edge, end), (start, edge)] if command.reverse else [(start, edge), (edge, end)]
            portions = [(ahead, bounds[0]), (rows.found, bounds[1])]
        # Made before the first row is yielded, and so in the step in which the others were: all show one state.
        locks = [stack.enter_context(source.cursor(ColumnFamily.LOCK, *bounds)) for _, bounds in portions]
        for (part, _), cursor in zip(portions, locks, strict=True):
            for row in rows.with_locks(part, cursor):
                yield row
                if row is not None:
                    left -= 1
                    if not left:
                        return
            if ends_with_step and part is ahead:
                yield None


def scan_unlocked(source: Reader, command: Scan) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) as `scan` does, where no lock can be in the way: those of the engine are not looked at.

    The view must have snapshot isolation or read committed, and lie above the safe point.
    """
    start, end = encoded_range(command.start, command.end)
    with (
        source.cursor(ColumnFamily.WRITE, start, end) as writes,
        source.cursor(ColumnFamily.DEFAULT, start, end) as values,
    ):
        rows = _Rows(writes, values, command)
        with closing(rows.found):  # as in `scan_in_steps`
            yield from islice(rows.plain(), command.limit)


class _Rows:
    """One scan: its cursors, all of one state, and what it looks for."""

    __slots__ = (
        "_check_newer",
        "_key_only",
        "_reverse",
        "_values",
        "_view",
        "_visible_from",
        "_writes",
        "found",
        "position",
    )

    def __init__(self, writes: Cursor, values: Cursor, command: Scan) -> None:
        self._writes = writes
        self._values = values
        self._view: Final[ReadView] = command.view
        self._key_only: Final = command.key_only
        self._reverse: Final = command.reverse
        self._visible_from: Final = inverted(command.view.version)
        """The inverted timestamps from here on are visible."""
        self._check_newer: Final = command.view.isolation is Isolation.RC_CHECK_TS
        self.found: Final = self._backward() if command.reverse else self._forward()
        """What is in `write`, in the direction of the scan; None for a step without a row."""
        self.position = b""
        """Encoded, at a step without a row: all that was found lies on this side of it, all that will be on the other.
        Forwards the first bound of what is left, backwards the second one."""

    # --- locks --------------------------------------------------------------------------------------------------

    def _locked(self, locks: Cursor) -> Iterator[_Locked]:
        """Yield the locks that matter, in the direction of the scan."""
        view = self._view
        if view.isolation is Isolation.RC:
            return
        passed = 0
        for encoded, stored in locks.pairs(reverse=self._reverse):
            lock = decode_lock(stored)
            key = user_key(encoded)
            error = lock_in_the_way(key, lock, view)
            if error is not None:
                yield _Locked(key, error)
            elif reads_through(lock, view):
                value = lock.short_value
                if lock.kind is LockKind.PUT and value is None:
                    value = b"" if self._key_only else self._long_value(encoded, lock.start_ts)
                yield _Locked(key, None, value)
            else:
                passed += 1
                if passed == RECORDS_PER_STEP:
                    passed = 0
                    yield _Locked(key, None, is_step=True)

    def _row_of_lock(self, locked: _Locked) -> Iterator[Pair | None]:
        """Yield the row that a lock makes: none for a delete that is read through."""
        if locked.is_step:
            yield None
        elif locked.error is not None:
            yield Pair(locked.key, b"", locked.error)
        elif locked.value is not None:
            yield Pair(locked.key, b"" if self._key_only else locked.value)

    # --- rows ---------------------------------------------------------------------------------------------------

    def with_locks(self, found: Iterable[_Found | None], cursor: Cursor) -> Iterator[Pair | None]:
        """Yield the rows that were found in a part of the range, with the locks of this part, to which `cursor` is bound."""
        locks = self._locked(cursor)
        reverse = self._reverse
        locked = next(locks, None)
        for row in found:
            if row is None:
                yield None
                continue
            if locked is not None:
                key = row.key
                is_locked = False
                while locked is not None and (locked.key == key or (locked.key < key) is not reverse):
                    is_locked |= locked.key == key and not locked.is_step
                    yield from self._row_of_lock(locked)
                    locked = next(locks, None)
                if is_locked:
                    continue
            if isinstance(row, Pair):
                yield row
            else:
                value = self._value(row)
                if value is not None:
                    yield Pair(row.key, value)
        while locked is not None:
            yield from self._row_of_lock(locked)
            locked = next(locks, None)

    def plain(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows that were found, without a look at locks."""
        for row in self.found:
            if isinstance(row, Pair):
                yield row.key, row.value
            elif row is not None:
                value = self._value(row)
                if value is not None:
                    yield row.key, value

    def _forward(self) -> Generator[_Found | None]:
        """Yield what stands for each key that has a visible put: it, or an error in its place. Nearly all rows are these.

        Neighbours in the order of keys mostly differ in the last group of their encoded form only, so what is before that is
        decoded once for all of them.
        """
        visible_from, check_newer, key_only = self._visible_from, self._check_newer, self._key_only
        done = head = user_head = b""
        seek: bytes | None = None
        passed = 0
        while True:
            steps = 0
            for stored, record in self._writes.pairs(seek=seek):
                encoded = stored[:-TS_BYTES]
                if encoded != done:
                    kind = record[0]
                    if stored[-TS_BYTES:] >= visible_from:
                        if kind == _PUT:
                            done = encoded
                            steps = 0
                            if stored[:_LAST_GROUP] != head:
                                head = stored[:_LAST_GROUP]
                                user_head = user_groups(head)
                            # The marker: 0xFF says that the last group is full, 0xF7 that it is empty.
                            key = user_head + stored[_LAST_GROUP : stored[_MARKER] - 0xFF + _MARKER]
                            value = short_value_of_put(record)
                            short = None if value is None else Pair(key, b"" if key_only else value)
                            yield short or _Unread(key, encoded, record)
                            continue
                        if kind == _DELETE:
                            done = encoded
                            steps = -1  # this one does not count
                    elif check_newer and kind in _CHANGES:
                        yield self._newer(stored, record)
                        done = encoded
                        continue
                steps += 1
                passed += 1
                if passed >= RECORDS_PER_STEP:
                    passed = 0
                    self.position = encoded + b"\0" if encoded == done else encoded
                    yield None
                if steps > STEPS_MAX:
                    seek = self._behind(stored, record, is_done=encoded == done)
                    break
            else:
                return

    def _behind(self, stored: bytes, record: bytes, *, is_done: bool) -> bytes:
        """Return where to go on, instead of stepping over one more record that does not count."""
        encoded = stored[:-TS_BYTES]
        if is_done:
            return encoded + ABOVE_VERSIONS
        if stored[-TS_BYTES:] < self._visible_from:
            return encoded + self._visible_from
        last_change = decode_write(record).last_change
        if last_change is None:
            return stored + b"\0"
        return stored_key(encoded, last_change.commit_ts) if last_change.commit_ts else encoded + ABOVE_VERSIONS

    def _newer(self, stored: bytes, record: bytes) -> Pair:
        key, commit_ts = user_key(stored[:-TS_BYTES]), timestamp_of(stored)
        error = newer_version(key, self._view.version, decode_write(record).start_ts, commit_ts)
        return Pair(key, b"", error)

    def _backward(self) -> Generator[_Found | None]:
        """As `_forward`, in descending order.

        Backwards the oldest version of a key comes first, so that the last one seen that is visible is the newest.
        """
        visible_from, check_newer = self._visible_from, self._check_newer
        current = b""
        newest: bytes | Pair | None = None
        seek: bytes | None = None
        passed = 0
        while True:
            pairs = self._writes.pairs(reverse=True, seek=seek)
            seek = None
            steps = 0
            for stored, record in pairs:
                encoded = stored[:-TS_BYTES]
                if encoded != current:
                    if newest is not None:
                        passed -= 1
                        yield self._row(current, newest)
                    current, newest, steps = encoded, None, 0
                else:
                    steps += 1
                    if steps > STEPS_MAX and not check_newer:
                        # All versions of `current` lie behind its encoded form: what is before that is the next key.
                        seek = encoded
                        break
                passed += 1
                if passed >= RECORDS_PER_STEP:
                    passed = 0
                    self.position = current + b"\0"
                    yield None
                kind = record[0]
                if kind in (_PUT, _DELETE):
                    if stored[-TS_BYTES:] >= visible_from:
                        newest = record if kind == _PUT else None
                    elif check_newer:
                        newest = self._newer(stored, record)
            if seek is None:
                break
            newest = self._seek_visible(current)
        if newest is not None:
            yield self._row(current, newest)

    def _row(self, encoded: bytes, found: bytes | Pair) -> _Found:
        """Return what stands for a key, whose newest visible record this is, or the row with an error."""
        if isinstance(found, Pair):
            return found
        value = short_value_of_put(found)
        if value is None:
            return _Unread(user_key(encoded), encoded, found)
        return Pair(user_key(encoded), b"" if self._key_only else value)

    def _seek_visible(self, encoded: bytes) -> bytes | None:
        """Return a key's newest visible record, if that is a put, by a seek."""
        stored = self._writes.seek(encoded + self._visible_from)
        while stored is not None and stored.startswith(encoded):
            record = self._writes.value()
            if record[0] == _PUT:
                return record
            if record[0] == _DELETE:
                return None
            stored = self._writes.next()
        return None

    # --- values -------------------------------------------------------------------------------------------------

    def _value(self, row: _Unread) -> bytes | None:
        """Return the value of a PUT; None if the record was collected before and has only come back."""
        write = decode_write(row.record)
        if write.is_fenced_off(self._view.version):
            return None
        if self._key_only:
            return b""
        return write.short_value if write.short_value is not None else self._long_value(row.encoded, write.start_ts)

    def _long_value(self, encoded: bytes, start_ts: Timestamp) -> bytes:
        stored = stored_key(encoded, start_ts)
        if self._values.seek(stored) != stored:
            raise missing_value(encoded, start_ts)
        return self._values.value()

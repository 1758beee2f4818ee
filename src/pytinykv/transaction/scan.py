"""Reading ranges at a timestamp: what `get` would find at each key, in key order or backwards, row by row.

    write CF, forward     k1: 30 · 20 · 10      k2: 15       k3: 40          at version 25
    yields                k1: what 20 wrote     k2: 15's     nothing

Locks of the range are merged in: a locked key yields an error in place of its value, and the scan goes on behind it, so
that a client can resolve all locks of a page at once. A key that is only locked, and has no version yet, is such a row,
too.

A scan is a generator: it costs nothing past what is taken of it, and may be left suspended while others are served. It has
its cursors from the beginning, so all of it shows the state of the moment at which its first row was asked for, whatever is
written meanwhile.

The loops are written for the case that nearly every row is: one version, visible, short, unlocked. They compare stored
keys as bytes and look at a record's first byte; only what is different is decoded (invariant:
`test_scan_agrees_with_get`).
"""

from __future__ import annotations

from collections.abc import Iterator
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
    TS_BYTES,
    encoded_range,
    inverted,
    stored_key,
    timestamp_of,
    user_key,
)
from pytinykv.wire.timestamp import Timestamp

if TYPE_CHECKING:
    from pytinykv.storage import Cursor, Reader

STEPS_MAX: Final = 16
"""Records of one key that are stepped over before a seek takes their place."""

_PUT: Final = WriteKind.PUT.value
_DELETE: Final = WriteKind.DELETE.value


class _Locked(NamedTuple):
    """A lock that matters to a scan."""

    encoded: bytes
    error: TxnError | None
    """Why the read must not pass; None: it is read through, as if it were committed."""
    value: bytes | None = None
    """What is read through it; None: a delete."""


def scan(source: Reader, command: Scan, *, safe_point: Timestamp = NO_TS) -> Iterator[Pair]:
    """Yield the rows that the command asks for.

    Raises:
        TxnErrorRaised: SnapshotTooOld, before the first row.
    """
    view = command.view
    if view.version < safe_point:
        raise TxnErrorRaised(SnapshotTooOld(key=command.start, start_ts=view.version, safe_point=safe_point))
    if command.limit <= 0:
        return
    start, end = encoded_range(command.start, command.end)
    with (
        source.cursor(ColumnFamily.WRITE, start, end) as writes,
        source.cursor(ColumnFamily.DEFAULT, start, end) as values,
        source.cursor(ColumnFamily.LOCK, start, end) as locks,
    ):
        yield from islice(_Rows(writes, values, locks, command).rows(), command.limit)


class _Rows:
    """One scan: its cursors, all of one state, and what it looks for."""

    __slots__ = ("_check_newer", "_key_only", "_locks", "_reverse", "_values", "_view", "_visible_from", "_writes")

    def __init__(self, writes: Cursor, values: Cursor, locks: Cursor, command: Scan) -> None:
        self._writes = writes
        self._values = values
        self._locks = locks
        self._view: Final[ReadView] = command.view
        self._key_only: Final = command.key_only
        self._reverse: Final = command.reverse
        self._visible_from: Final = inverted(command.view.version)
        """The inverted timestamps from here on are visible."""
        self._check_newer: Final = command.view.isolation is Isolation.RC_CHECK_TS

    # --- locks --------------------------------------------------------------------------------------------------

    def _locked(self) -> Iterator[_Locked]:
        """Yield the locks that matter, in the direction of the scan."""
        view = self._view
        if view.isolation is Isolation.RC:
            return
        for encoded, stored in self._locks.pairs(reverse=self._reverse):
            lock = decode_lock(stored)
            error = lock_in_the_way(user_key(encoded), lock, view)
            if error is not None:
                yield _Locked(encoded, error)
            elif reads_through(lock, view):
                value = lock.short_value
                if lock.kind is LockKind.PUT and value is None:
                    value = b"" if self._key_only else self._long_value(encoded, lock.start_ts)
                yield _Locked(encoded, None, value)

    def _row_of_lock(self, locked: _Locked) -> Iterator[Pair]:
        """Yield the row that a lock makes: none for a delete that is read through."""
        if locked.error is not None:
            yield Pair(user_key(locked.encoded), b"", locked.error)
        elif locked.value is not None:
            yield Pair(user_key(locked.encoded), b"" if self._key_only else locked.value)

    # --- rows ---------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Pair]:
        """Yield the rows in the direction of the scan: what is found in `write`, and the locks."""
        locks = self._locked()
        locked = next(locks, None)
        reverse = self._reverse
        for encoded, found in self._backward() if reverse else self._forward():
            if locked is not None:
                is_locked = False
                while locked is not None and (locked.encoded == encoded or (locked.encoded < encoded) is not reverse):
                    is_locked = locked.encoded == encoded
                    yield from self._row_of_lock(locked)
                    locked = next(locks, None)
                if is_locked:
                    continue
            if isinstance(found, Pair):
                yield found
                continue
            value = self._value(encoded, found)
            if value is not None:
                yield Pair(user_key(encoded), value)
        while locked is not None:
            yield from self._row_of_lock(locked)
            locked = next(locks, None)

    def _forward(self) -> Iterator[tuple[bytes, bytes | Pair]]:
        """Yield (encoded key, newest visible put) of each key that has one, or in its place the row with an error."""
        visible_from, check_newer = self._visible_from, self._check_newer
        done = b""
        seek: bytes | None = None
        while True:
            steps = 0
            for stored, record in self._writes.pairs(seek=seek):
                encoded = stored[:-TS_BYTES]
                if encoded != done:
                    kind = record[0]
                    if stored[-TS_BYTES:] >= visible_from:
                        if kind == _PUT:
                            yield encoded, record
                            done = encoded
                            steps = 0
                            continue
                        if kind == _DELETE:
                            done = encoded
                            steps = 0
                            continue
                    elif check_newer and kind in (_PUT, _DELETE):
                        yield encoded, self._newer(stored, record)
                        done = encoded
                        continue
                steps += 1
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

    def _backward(self) -> Iterator[tuple[bytes, bytes | Pair]]:
        """As `_forward`, in descending order.

        Backwards the oldest version of a key comes first, so that the last one seen that is visible is the newest.
        """
        visible_from, check_newer = self._visible_from, self._check_newer
        current = b""
        newest: bytes | Pair | None = None
        seek: bytes | None = None
        while True:
            pairs = self._writes.pairs(reverse=True, seek=seek)
            seek = None
            steps = 0
            for stored, record in pairs:
                encoded = stored[:-TS_BYTES]
                if encoded != current:
                    if newest is not None:
                        yield current, newest
                    current, newest, steps = encoded, None, 0
                else:
                    steps += 1
                    if steps > STEPS_MAX and not check_newer:
                        # All versions of `current` lie behind its encoded form: what is before that is the next key.
                        seek = encoded
                        break
                kind = record[0]
                if kind in (_PUT, _DELETE):
                    if stored[-TS_BYTES:] >= visible_from:
                        newest = record if kind == _PUT else None
                    elif check_newer:
                        newest = self._newer(stored, record)
            if seek is None:
                break
            found = self._seek_visible(current)
            if found is not None:
                yield current, found
            newest = None
        if newest is not None:
            yield current, newest

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

    def _value(self, encoded: bytes, record: bytes) -> bytes | None:
        """Return the value of a PUT; None if the record was collected before and has only come back."""
        value = short_value_of_put(record)
        if value is not None:
            return b"" if self._key_only else value
        write = decode_write(record)
        if write.is_fenced_off(self._view.version):
            return None
        if self._key_only:
            return b""
        return write.short_value if write.short_value is not None else self._long_value(encoded, write.start_ts)

    def _long_value(self, encoded: bytes, start_ts: Timestamp) -> bytes:
        stored = stored_key(encoded, start_ts)
        if self._values.seek(stored) != stored:
            raise missing_value(encoded, start_ts)
        return self._values.value()
